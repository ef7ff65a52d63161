"""Pictures, maps and tiles for the browser; every address names a run and a case by their keys and never a path."""

import gzip
import json
import struct
from asyncio import wrap_future
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from apps.review.desk import Desk
from apps.review.pictures import TILE, Plane
from apps.review.store import Conflict
from medvit.budgets import MIB
from medvit.errors import MedvitError
from medvit.guard import Reply

ASSETS = Path(__file__).parent / "components"
VENDORED = {"openseadragon.min.js": "text/javascript"}
THUMBNAIL = 96
CLOSE_UP, LARGEST = 128, 8_192  # pixels of a close-up in the gallery; level-0 pixels a side that it may cover
OWN = "x-medvit"  # a header that a page of another site cannot send
MOST_SENT = 64 * MIB  # of a mask
KEPT = {"cache-control": "private, max-age=3600"}
FRESH = {"cache-control": "no-store"}


def routes(desk: Desk) -> list[Route]:
    """The addresses under ``/review/``; `apps.review.door` stands before them."""

    async def thumbnail(request: Request) -> Response:
        run, case = _place(request)
        kind = desk.runs[run].kind(desk.case(run, case)[1])
        found = await run_in_threadpool(desk.ask, "thumbnail", run, case, kind, THUMBNAIL, urgent=False)
        return _jpeg(await wrap_future(found))

    async def film(request: Request) -> Response:
        run, case = _place(request)
        return _framed(await _of(desk, "film", run, case))

    async def clip(request: Request) -> Response:
        run, case = _place(request)
        return _framed(await _of(desk, "clip", run, case))

    async def slices(request: Request) -> Response:
        run, case = _place(request)
        return _framed(await wrap_future(await run_in_threadpool(desk.volume, run, case)))

    async def slide_of(run: str, case: str) -> dict[str, Any]:
        known = desk.known_slide(run, case)
        return known or dict((await wrap_future(await run_in_threadpool(desk.slide, run, case))).plain)

    async def slide(request: Request) -> Response:
        run, case = _place(request)
        return JSONResponse((await slide_of(run, case)), headers=KEPT)

    async def tile(request: Request) -> Response:
        run, case = _place(request)
        told = await slide_of(run, case)
        wanted = [int(request.path_params[name]) for name in ("level", "column", "row")]
        box = tile_box(told["width"], told["height"], *wanted)
        if box is None:
            return Response(status_code=404)
        return _jpeg(await wrap_future(desk.tile(run, case, box, _plane(request))))

    async def region(request: Request) -> Response:
        run, case = _place(request)
        left, top, side = (int(request.path_params[name]) for name in ("left", "top", "side"))
        if not 0 < side <= LARGEST:
            return Response(status_code=404)
        pixels = min(side, CLOSE_UP)
        stack = (await slide_of(run, case))["planes"] > 1
        plane = _plane(request, "best" if stack else None)  # what is looked at closely is in focus
        return _jpeg(
            await wrap_future(desk.tile(run, case, (float(left), float(top), pixels, pixels, side / pixels), plane))
        )

    async def heat(request: Request) -> Response:
        run, case = _place(request)
        if _is_blind(desk, request, run, case):
            return JSONResponse([], headers=FRESH)
        return JSONResponse(await run_in_threadpool(desk.heat, run, case), headers=FRESH)

    async def tiles(request: Request) -> Response:
        run, case = _place(request)
        if _is_blind(desk, request, run, case):
            return JSONResponse({}, headers=FRESH)
        corner = (await slide_of(run, case))["corner"]
        path = desk.case(run, case)[0].folder / "cases" / case / "tiles.geojson.gz"
        return Response(
            await run_in_threadpool(scores, path, tuple(corner)), media_type="application/json", headers=FRESH
        )

    async def masks(request: Request) -> Response:
        run, case = _place(request)
        person, hidden = request.scope["medvit.person"], _is_blind(desk, request, run, case)
        found = await run_in_threadpool(desk.masks, run, case, person.name, hidden)
        return _framed(await wrap_future(found), FRESH)

    async def paint(request: Request) -> Response:
        run, case = _place(request)
        if request.headers.get(OWN) is None or _is_blind(desk, request, run, case):
            return JSONResponse({"message": "This cannot be painted on."}, 403, FRESH)
        head, bits = _sent(await _body(request))
        who = request.scope["medvit.person"].name
        try:
            told = await run_in_threadpool(desk.paint, run, case, who, *head[:3], bits, head.anew)
        except Conflict as conflict:
            return JSONResponse({"message": str(conflict)}, 409, FRESH)
        return JSONResponse(told, headers=FRESH)

    async def asset(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in VENDORED:
            return Response(status_code=404)
        return Response(_asset(name), media_type=VENDORED[name], headers={"cache-control": "public, max-age=86400"})

    told: dict[str, Callable[[Request], Awaitable[Response]]] = {
        "thumbnail": thumbnail, "film": film, "clip": clip, "slices": slices, "slide": slide, "heat": heat, "tiles": tiles,
        "masks": masks,
    }  # fmt: skip
    return [
        Route("/review/asset/{name:str}", asset),
        Route("/review/tile/{run:str}/{case:str}/{level:int}/{column:int}_{row:int}.jpg", _polite(tile)),
        Route("/review/region/{run:str}/{case:str}/{left:int}_{top:int}_{side:int}.jpg", _polite(region)),
        Route("/review/paint/{run:str}/{case:str}", _polite(paint), methods=["POST"]),
        *(Route(f"/review/{name}/{{run:str}}/{{case:str}}", _polite(answer)) for name, answer in told.items()),
    ]


class Painted(NamedTuple):
    """What the browser says of what was painted; without slices the AI's mask is taken again; anew: there was no mask."""

    finding: str
    after: int
    slices: list[int] | None
    anew: bool


async def _body(request: Request) -> bytes:
    body = bytearray()  # grows in place, where bytes would be copied with every part
    async for part in request.stream():
        body += part
        if len(body) > MOST_SENT:
            raise MedvitError("This is more than a mask can be.")
    return bytes(body)


def _sent(body: bytes) -> tuple[Painted, bytes]:
    """The head of what was sent, and the bits behind it: the length of the head, the head in JSON, bits."""
    try:
        (length,) = struct.unpack("<I", body[:4])
        told = json.loads(body[4 : 4 + length])
        slices = None if told["slices"] is None else [int(number) for number in told["slices"]]
        return Painted(str(told["finding"]), int(told["after"]), slices, told.get("anew") is True), body[4 + length :]
    except (struct.error, ValueError, KeyError, TypeError):
        raise MedvitError("What was sent is no mask.") from None


def tile_box(width: int, height: int, level: int, column: int, row: int) -> tuple[float, float, int, int, float] | None:
    """Where a tile of the pyramid lies: left, top in level-0 pixels, its width and height, level-0 pixels a pixel.

    Levels count as in Deep Zoom: the last has a pixel a level-0 pixel, each before it half as many a side.

    Returns:
        None where there is no such tile.
    """
    last = max((max(width, height) - 1).bit_length(), 0)
    if not 0 <= level <= last:
        return None
    scale = 2 ** (last - level)
    left, top = column * TILE * scale, row * TILE * scale
    if left >= width or top >= height:
        return None
    across, down = (max(min((side - start) // scale, TILE), 1) for side, start in ((width, left), (height, top)))
    fit = min((width - left) / across, (height - top) / down, float(scale))  # of a last pixel that is not whole
    return float(left), float(top), across, down, fit


def _place(request: Request) -> tuple[str, str]:
    return str(request.path_params["run"]), str(request.path_params["case"])


def _plane(request: Request, otherwise: Plane = None) -> Plane:
    told = request.query_params.get("plane", "")
    return int(told) if told.isdecimal() and len(told) < 4 else otherwise


async def _of(desk: Desk, duty: str, run: str, case: str, *arguments: Any) -> Reply:
    found: Future[Reply] = await run_in_threadpool(desk.ask, duty, run, case, *arguments)
    return await wrap_future(found)


def _polite(answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """What cannot be shown is a sentence and no fault of the server."""

    async def answered(request: Request) -> Response:
        try:
            return await answer(request)
        except (MedvitError, KeyError) as error:
            told = str(error) if isinstance(error, MedvitError) else "There is no such case here."
            return JSONResponse({"message": told}, 404, FRESH)

    return answered


def _is_blind(desk: Desk, request: Request, run: str, case: str) -> bool:
    """Whether the reader has not yet asked for what the AI says."""
    if not desk.settings.blind:
        return False
    person = request.scope.get("medvit.person")
    return person is None or not desk.boards[run].refresh().was_shown(case, person.name)


def _jpeg(reply: Reply) -> Response:
    return Response(reply.arrays[0].tobytes(), media_type="image/jpeg", headers=KEPT)


def _framed(reply: Reply, kept: Mapping[str, str] = KEPT) -> Response:
    """The length of a head, the head in JSON padded to whole eight bytes, then the numbers."""
    head = json.dumps(reply.plain).encode()
    head += b" " * (-len(head) % 8 + 4)
    body = struct.pack("<I", len(head)) + head + reply.arrays[0].tobytes()
    return Response(body, media_type="application/octet-stream", headers=dict(kept))


@lru_cache(maxsize=8)
def _asset(name: str) -> bytes:
    return (ASSETS / name).read_bytes()


@lru_cache(maxsize=16)
def scores(path: Path, corner: tuple[int, int]) -> bytes:
    """The tiles of a slide with their scores, in level-0 pixels of the whole slide: columns by name, as JSON."""
    if not path.is_file():
        return b"{}"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        features = json.load(file)["features"]
    if not features:
        return b"{}"
    first = features[0]["geometry"]["coordinates"][0]
    names = sorted(features[0]["properties"]["measurements"])
    told = {
        "side": first[1][0] - first[0][0],
        "x": [round(one["geometry"]["coordinates"][0][0][0] + corner[0], 2) for one in features],
        "y": [round(one["geometry"]["coordinates"][0][0][1] + corner[1], 2) for one in features],
        "scores": {
            name.removeprefix("medvit: "): [one["properties"]["measurements"].get(name) for one in features]
            for name in names
        },
    }
    return json.dumps(told, separators=(",", ":")).encode()
