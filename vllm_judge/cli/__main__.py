"""`python -m vllm_judge.cli`: the console script, in whatever Python runs this."""

from vllm_judge.cli import main
from vllm_judge.cli.screen import end_with_parent

end_with_parent()
main()
