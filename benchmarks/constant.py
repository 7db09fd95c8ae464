"""`python -m benchmarks.constant FILE --port PORT`: answers everything with what is in the file.

It is the floor of any service here: Starlette on uvicorn, as the service runs them, and no work.
"""

import sys
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from millwright.serving import server


def main() -> None:
    """Answer until SIGTERM."""
    body, port = Path(sys.argv[1]).read_bytes(), int(sys.argv[3])

    async def answer(request: Request) -> Response:
        await request.body()
        return Response(body, media_type="application/json")

    with server.listen("127.0.0.1", port) as listening:
        app = Starlette(routes=[Route("/", answer, methods=["GET", "POST"])])
        server.run(server.prepared(app), listening)


if __name__ == "__main__":
    main()
