"""Pictures of a probe for its page: pure functions from arrays to HTML with inline SVG, after ``evaluate/report``.

- :func:`audio_ssl.probe.pictures.layers.layer_curves`: a figure by layer, baselines as bands.
- :func:`audio_ssl.probe.pictures.maps.embedding_map`: embeddings in the plane, by speaker or label; and
  :func:`~audio_ssl.probe.pictures.maps.plane`, which brings them there.
- :func:`audio_ssl.probe.pictures.codes.code_heatmap`: which code stands for which label.
- :func:`audio_ssl.probe.pictures.neighbours.neighbour_list`: the nearest utterances of others, to listen to.

Each gives a ``<figure>``. Their style is :func:`style`, which goes into ``skeleton.whole(own_style=...)``. No script;
colours follow the page's theme; nothing is told by colour alone.
"""

from importlib import resources


def style() -> str:
    """The style sheet of these pictures."""
    return resources.files("audio_ssl.probe.pictures").joinpath("pictures.css").read_text(encoding="utf-8")
