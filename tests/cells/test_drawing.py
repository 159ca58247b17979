import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest

import fade_study
from fade_study import Architecture, Dag, enumerate_dags
from fade_study.cells import drawing
from fade_study.cells.drawing import RADIUS, layout

SVG = "{http://www.w3.org/2000/svg}"


class Other:
    key = "<mlp> & 3"


def count(text, name):
    return len(list(ET.fromstring(text).iter(f"{SVG}{name}")))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_data_flow_downwards_and_edges_keep_clear_of_other_vertices(size):
    for dag in enumerate_dags(size):
        points, edges = layout(dag)
        assert len(set(points)) == size + 2
        assert sorted((u, v) for u, v, _ in edges) == sorted(dag.augmented_edges)
        for u, v, bend in edges:
            assert points[u][1] < points[v][1]
            others = [point for vertex, point in enumerate(points) if vertex not in (u, v)]
            for one in drawing._curve(points[u], points[v], bend):
                assert all(math.dist(one, other) > RADIUS for other in others), (dag, u, v)


@pytest.mark.parametrize("dag", [Dag(1), *enumerate_dags(4)[::7], enumerate_dags(5)[-1]])
def test_the_svg_of_a_dag_has_a_shape_for_each_vertex_and_a_line_for_each_edge(dag):
    text = dag._repr_svg_()
    assert count(text, "circle") == dag.vertices
    assert count(text, "rect") == 1
    assert count(text, "path") == len(dag.augmented_edges) + 1, "the output vertex is a path, too"
    assert ET.fromstring(text).find(f"{SVG}title").text == dag.key


def test_the_svg_of_an_architecture_shows_all_cells_and_keys_of_other_kinds():
    text = Architecture((Dag(2), Other(), Dag(3)))._repr_svg_()
    assert count(text, "circle") == 5
    assert "".join(ET.fromstring(text).find(f".//{SVG}text").itertext()) == Other.key


def test_study_and_batch_are_shown_as_tables():
    sampler = fade_study.samplers.PseudoGradientSampler(seed=0)
    study = fade_study.create_study(space=fade_study.DagSpace(3), depth=2, sampler=sampler, study_name="a<b")
    assert "a&lt;b" in study._repr_html_()
    batch = study.ask()
    shape = batch.hyper_architecture.shape
    table = ET.fromstring(batch._repr_html_())
    assert len(list(table.iter("td"))) == len(list(table.iter(f"{SVG}svg"))) == math.prod(shape)
    study.tell(batch, np.full(shape, 1 / shape[1]), value=0.75)
    rows = {row.find("th").text: row.find("td") for row in ET.fromstring(study._repr_html_()).iter("tr")}
    assert rows["generations told"].text == "1"
    assert rows["best architecture, 0.75 in generation 0"].find(f"{SVG}svg/{SVG}title").text == batch.architecture.key
    assert rows["anchor of row 1"].text.startswith(f"eccentricity_variance {batch.anchors[1, 0]:.2f}, ")
