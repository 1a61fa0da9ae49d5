"""TensorBoard's server, asked through HTTP."""

from pathlib import Path
from typing import Any


class Board:
    """TensorBoard's web application over a folder, without a server."""

    def __init__(self, folder: Path) -> None:
        from tensorboard import default, program
        from tensorboard.backend.application import TensorBoardWSGIApp
        from tensorboard.backend.event_processing.data_ingester import LocalDataIngester
        from werkzeug.test import Client

        board = program.TensorBoard(plugins=default.get_plugins())
        board.configure(logdir=str(folder), load_fast="false", reload_interval=0.0)
        source = LocalDataIngester(board.flags)
        source.start()
        app = TensorBoardWSGIApp(
            board.flags, board.plugin_loaders, source.data_provider, board.assets_zip_provider, None
        )
        self._client = Client(app)

    def get(self, path: str) -> Any:
        response = self._client.get(f"/data/{path}")
        assert response.status_code == 200
        return response.json

    def hparams(self, what: str, **question: object) -> Any:
        response = self._client.post(f"/data/plugin/hparams/{what}", json={"experimentName": "", **question})
        assert response.status_code == 200
        return response.json
