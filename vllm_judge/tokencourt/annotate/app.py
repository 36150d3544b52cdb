"""The page's server: hands out answers, keeps every click."""

from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, ConfigDict
from transformers import PreTrainedTokenizerBase

from vllm_judge.errors import JudgeError
from vllm_judge.page.local import local_app, page
from vllm_judge.tokencourt.annotate.agreement import agreements
from vllm_judge.tokencourt.annotate.pieces import pieces_in, pieces_of, span_of
from vllm_judge.tokencourt.annotate.store import Notebook, Opinion, read_opinions
from vllm_judge.tokencourt.court import Answer, Verdict

PAGE = Path(__file__).with_name("page.html")


class Said(BaseModel):
    """What the page sends: a verdict and, of a wrong answer, the marked pieces `first` to `last`."""

    model_config = ConfigDict(extra="forbid")

    verdict: Verdict
    first: int | None = None
    last: int | None = None


class Nothing(BaseModel):
    """The body of a change that says nothing but itself: {}."""

    model_config = ConfigDict(extra="forbid")


def annotation_app(
    court: Path,
    answers: list[Answer],
    notebooks: dict[str, Notebook],
    tokenizer: PreTrainedTokenizerBase | None = None,
    name: str = "localhost",
) -> FastAPI:
    """The page and its interface.

    Args:
        court: the file that the answers are from; the annotations lie beside it.
        answers: what is to be annotated, in the order of the page.
        notebooks: an open one for each annotator.
        tokenizer: cuts answers into tokens; words without one.
        name: the server's, see `local_app`.
    """
    app = local_app("vllm-judge annotate", name)
    index_of = {answer.id: index for index, answer in enumerate(answers)}

    def named(annotator: Annotated[str, Query()]) -> str:
        if annotator not in notebooks:
            raise HTTPException(404, f"no annotator {annotator!r}: the server was started for {', '.join(notebooks)}")
        return annotator

    def numbered(number: int) -> Answer:
        if not 0 <= number < len(answers):
            raise HTTPException(404, f"no answer {number}: there are {len(answers)}")
        return answers[number]

    Annotator = Annotated[str, Depends(named)]
    Chosen = Annotated[Answer, Depends(numbered)]

    def overview(annotator: str) -> dict[str, Any]:
        now = notebooks[annotator].now
        return {
            "court": court.name,
            "annotator": annotator,
            "annotators": list(notebooks),
            "verdicts": [now[answer.id].verdict if answer.id in now else None for answer in answers],
            "agreement": [vars(pair) for pair in agreements(read_opinions(court))],
        }

    @app.exception_handler(JudgeError)
    async def refuse(_: Request, error: JudgeError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=507)

    @app.get("/")
    async def index() -> HTMLResponse:
        return page(PAGE)

    @app.get("/api/annotators")
    async def annotators() -> list[str]:
        return list(notebooks)

    @app.get("/api/overview")
    async def get_overview(annotator: Annotator) -> dict[str, Any]:
        return overview(annotator)

    @app.get("/api/answers/{number}")
    async def get_answer(answer: Chosen, annotator: Annotator) -> dict[str, Any]:
        pieces = pieces_of(answer.answer, tokenizer)
        opinion = notebooks[annotator].now.get(answer.id)
        return {
            "id": answer.id,
            "messages": [message.model_dump() for message in answer.messages],
            "reference": answer.metadata.get("reference"),
            "model": answer.model,
            "verdict": answer.verdict,
            "labelled_by": answer.labelled_by,
            "pieces": [answer.answer[piece.start : piece.end] for piece in pieces],
            "opinion": opinion and opinion.verdict,
            "marked": pieces_in(pieces, opinion.mistake) if opinion and opinion.mistake else None,
        }

    @app.post("/api/answers/{number}")
    async def say(answer: Chosen, annotator: Annotator, said: Said) -> dict[str, Any]:
        notebooks[annotator].say(answer.id, _opinion(answer, said, tokenizer))
        return overview(annotator)

    @app.post("/api/undo")
    async def undo(annotator: Annotator, nothing: Nothing) -> dict[str, Any]:
        id = notebooks[annotator].undo()
        return {**overview(annotator), "number": index_of.get(id) if id else None}

    return app


def _opinion(answer: Answer, said: Said, tokenizer: PreTrainedTokenizerBase | None) -> Opinion:
    if said.verdict != Verdict.wrong or said.first is None:
        return Opinion(verdict=said.verdict)
    last = said.first if said.last is None else said.last
    pieces = pieces_of(answer.answer, tokenizer)
    if not 0 <= said.first <= last < len(pieces):
        raise HTTPException(422, f"no pieces {said.first} to {last}: the answer has {len(pieces)}")
    return Opinion(verdict=said.verdict, mistake=span_of(answer.answer, pieces, said.first, last))
