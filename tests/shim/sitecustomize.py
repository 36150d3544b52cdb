"""Test-only: vLLM's model runner V2 on a machine without a GPU, its Triton kernels run by Triton's interpreter.

Python imports a module of this name at start-up from any folder on PYTHONPATH, in vLLM's worker processes too:

    PYTHONPATH=tests/shim TRITON_INTERPRET=1 VLLM_USE_V2_MODEL_RUNNER=1 python ...

It does nothing unless TRITON_INTERPRET=1. Each repair waits for its module, so that a process which never imports
Triton or vLLM pays nothing. On a machine with a GPU Triton has a driver already, and only the mask repair remains.
"""

import importlib.abc
import importlib.machinery
import os
import sys

CPU_BACKEND = "cpu"


class InterpreterDriver:
    """Stands in for the driver of a Triton CPU backend; the interpreter launches kernels without one."""

    @staticmethod
    def is_active():
        return True


def register_cpu_backend(backends):
    """vLLM built for CPU uses Triton only where it finds a backend named "cpu", which Triton's wheels lack."""
    if not any(backend.driver.is_active() for backend in backends.backends.values()):
        backends.backends[CPU_BACKEND] = backends.Backend(compiler=None, driver=InterpreterDriver)


def cast_masks(interpreter):
    """The interpreter loads and stores under bool masks only; integer arithmetic makes masks of another dtype."""
    builder = interpreter.InterpreterBuilder
    load, store = builder.create_masked_load, builder.create_masked_store

    def as_bool(mask):
        return interpreter.TensorHandle(mask.data.astype(bool), mask.dtype)

    def create_masked_load(self, ptrs, mask, *rest, **options):
        return load(self, ptrs, as_bool(mask), *rest, **options)

    def create_masked_store(self, ptrs, value, mask, *rest, **options):
        return store(self, ptrs, value, as_bool(mask), *rest, **options)

    builder.create_masked_load, builder.create_masked_store = create_masked_load, create_masked_store


def patch_once(interpreter):
    """The interpreter patches Triton's language anew for each function that a kernel calls, which takes longer than the
    kernels themselves; what is patched already can stay so."""
    patch, languages = interpreter._patch_lang, [interpreter.tl, interpreter.tl.core]
    patched = []

    def _patch_lang(function):
        needed = [one for one in languages if any(value is one for value in function.__globals__.values())]
        if needed and all(one in patched for one in needed):
            return interpreter._LangPatchScope()
        scope = patch(function)
        restore = scope.restore

        def forget_and_restore():
            patched.clear()
            restore()

        patched.extend(needed)
        scope.restore = forget_and_restore
        return scope

    interpreter._patch_lang = _patch_lang


def repair_interpreter(interpreter):
    cast_masks(interpreter)
    patch_once(interpreter)


def define_log1p(libdevice):
    """libdevice is code for GPUs; of its functions vLLM's sampling kernels call this one."""
    import numpy
    from triton.language import tensor
    from triton.runtime.interpreter import TensorHandle

    def log1p(x, _semantic=None):
        return tensor(TensorHandle(numpy.log1p(x.handle.data), x.handle.dtype), x.type)

    libdevice.log1p = log1p


def sort_for_top_k_top_p(sampler):
    """vLLM's top-k/top-p kernel calls tensor methods on scalar arguments, plain numbers in the interpreter."""
    from triton.backends import backends

    if CPU_BACKEND in backends:
        sampler.HAS_TRITON = False


REPAIRS = {
    "triton.backends": register_cpu_backend,
    "triton.runtime.interpreter": repair_interpreter,
    "triton.language.extra.libdevice": define_log1p,
    "vllm.v1.sample.ops.topk_topp_sampler": sort_for_top_k_top_p,
}


class RepairingLoader(importlib.abc.Loader):
    """Loads a module with its own loader, then applies the module's repair."""

    def __init__(self, loader, repair):
        self.loader, self.repair = loader, repair

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        self.loader.exec_module(module)
        self.repair(module)


class RepairingFinder(importlib.abc.MetaPathFinder):
    """Finds the modules of REPAIRS where Python would, and hands them to RepairingLoader."""

    def find_spec(self, name, path, target=None):
        if name not in REPAIRS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None:
            spec.loader = RepairingLoader(spec.loader, REPAIRS[name])
        return spec


if os.environ.get("TRITON_INTERPRET") == "1":
    sys.meta_path.insert(0, RepairingFinder())
