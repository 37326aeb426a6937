# docs/examples/control_room.py
import json
import sys

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1] if len(sys.argv) > 1 else "runs/beam/policy/last.onnx")
low, high = np.array(json.loads(session.get_modelmeta().custom_metadata_map["observed"]), np.float32)
rows = np.zeros((3, 10), np.float32)  # the last change but one, the last change, the reading


def steps(reading):
    """Ten readings in mm -> how far each current is to go, in A. ValueError: they are not like those of the training."""
    rows[:] = rows[1], reading - rows[2], reading
    seen = rows.reshape(1, 30)
    if wrong := np.flatnonzero(~((low <= seen) & (seen <= high))[0]).tolist():  # not a number is refused, too
        raise ValueError(
            f"refused: {len(wrong)} of 30 numbers are outside what it was trained on, the first is number {wrong[0]}"
        )
    return session.run(["action"], {"observation": seen})[0][0]


if __name__ == "__main__":
    rows[2] = 0.0  # put the reading at 0 A here
    for reading in (np.full(10, 0.1), np.full(10, 900.0)):  # and those that follow here, the first at 0.3 A
        try:
            print("move the currents by", steps(reading).round(2).tolist())
        except ValueError as refusal:
            print(refusal)
