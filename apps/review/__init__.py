"""The review app: clinicians decide about what `medvit predict` found, the app remembers.

The way of the data: ``records.jsonl`` (`runs`) -> worklist -> case view with pictures from worker processes (`shelf`,
`routes`, behind the check of `door`) -> a decision (`store`: one row, on the disk before the screen says so) -> who says
what (`readings`) -> worklist, agreement, exports. Nothing flows back into the run; all that the app writes lies in
``OUT/review``.
"""
