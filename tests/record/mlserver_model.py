"""Run by a Python with MLServer and MLflow: writes a model folder that `mlserver start` serves.

python mlserver_model.py FOLDER GRPC_PORT HTTP_PORT METRICS_PORT
"""

import json
import sys
from pathlib import Path


def main():
    import mlflow
    import numpy as np
    import pandas as pd
    from sklearn.linear_model import LinearRegression

    folder, *ports = Path(sys.argv[1]), *map(int, sys.argv[2:])
    rows = pd.DataFrame(np.random.default_rng(1).random((50, 2)), columns=["a", "b"])
    model = LinearRegression().fit(rows, rows["a"] - 2 * rows["b"])
    served = folder / "model"
    mlflow.sklearn.save_model(
        model, served / "mlflow", signature=mlflow.models.infer_signature(rows, model.predict(rows))
    )
    (served / "model-settings.json").write_text(
        json.dumps(
            {
                "name": "linear",
                "implementation": "mlserver_mlflow.MLflowRuntime",
                "parameters": {"uri": str(served / "mlflow"), "version": "v7"},
            }
        )
    )
    settings = dict(zip(("grpc_port", "http_port", "metrics_port"), ports, strict=True))
    (folder / "settings.json").write_text(
        json.dumps({"host": "127.0.0.1", "parallel_workers": 0, **settings})
    )


if __name__ == "__main__":
    main()
