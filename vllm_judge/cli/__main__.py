"""`python -m vllm_judge.cli`: the console script, in whatever Python runs this."""

from vllm_judge.cli import main
from vllm_judge.cli.screen import end_with_parent

if __name__ == "__main__":  # and not in the processes that an engine spawns
    end_with_parent()
    main()
