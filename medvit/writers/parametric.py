"""Heat maps as numbers for viewers: Parametric Maps over the film.

Radiographs lie on no plane in space, which these objects need: they are written for radiographs only with an invented one,
asked for and flagged, see `medvit.writers.dicom.placed`.

Source: DICOM PS3.3 A.75 (Parametric Map), C.7.6.16.2.11 (real world values), PS3.16 CID 217 (visual explanations).
"""

from pathlib import Path

import numpy as np
from highdicom.content import VOILUTTransformation
from highdicom.pm import ParametricMap, RealWorldValueMapping

from medvit.codes import METHODS, file_name
from medvit.result import Heatmap, Result, Run
from medvit.writers import dicom
from medvit.writers.clip_heat import refuse_clip
from medvit.writers.source import Source, open_source

FIRST_SERIES = 9100  # one series a label: viewers show the first map of a series only


def write_parametric(result: Result, folder: Path, run: Run) -> list[Path]:
    """Write ``map_pm_<label>.dcm`` of every heat map: float32 in the rows and columns of the film.

    Nothing is written about a picture.

    Raises:
        Unanswered: For a film on no plane, unless the run invents one.
    """
    refuse_clip(result)
    source = open_source(result.case) if result.heatmaps else None
    if source is None:
        return []
    series = {finding.label.name: FIRST_SERIES + index for index, finding in enumerate(result.findings)}
    return [_write(heat, source, folder, run, series.get(heat.label.name, FIRST_SERIES)) for heat in result.heatmaps]


def _write(heat: Heatmap, source: Source, folder: Path, run: Run, series: int) -> Path:
    values = heat.fit.to_source(heat.values)  # (H, W)
    high = max(float(values.max()), float(np.finfo(np.float32).tiny))
    name = heat.label.name
    kind = dicom.Kind(f"map {name}", series, f"AI map {name[:14]}")
    image, description = dicom.placed(source, values.shape, run)
    parametric = ParametricMap(
        source_images=[image],
        pixel_array=values,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[
            RealWorldValueMapping(
                lut_label=file_name(name)[:16],
                lut_explanation=f"Regions that influenced the score of {name}"[:64],
                unit=dicom.term("no units"),
                value_range=(0.0, high),
                slope=1.0,
                intercept=0.0,
                quantity_definition=dicom.term(METHODS.get(heat.method, "saliency")),
            )
        ],
        voi_lut_transformations=[
            VOILUTTransformation(window_center=high / 2, window_width=high, voi_lut_function="LINEAR_EXACT")
        ],
        content_label="AI_MAP",
        content_description=description,
        **dicom.identify(source, run, kind),
    )
    dicom.name_body_part(parametric, source)
    dicom.sign(parametric, source, run)
    stored = values.tobytes()
    path = folder / f"map_pm_{file_name(name)}.dcm"
    return dicom.write_object(path, parametric, lambda back: back.FloatPixelData == stored)
