"""The release described for machines: MLCommons Croissant 1.1, with its responsible-AI fields.

https://docs.mlcommons.org/croissant/docs/croissant-spec.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from zoo.columns import COLUMNS, Column
from zoo.fragments import CHECKPOINTS
from zoo.publishing.terms import Terms

CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}

KEYS = {"configs": "config_id", "runs": "run_id"}
"""Columns that identify a row, and that other tables refer to."""

TYPES = {pa.string(): "sc:Text", pa.int64(): "sc:Integer", pa.float64(): "sc:Float", pa.bool_(): "sc:Boolean"}

RESPONSIBLE = {
    "rai:dataCollection": "Networks were trained by mdzoo over a grid of settings, and metrics of their loss "
    "landscape measured by it. No person took part, no data of persons was collected.",
    "rai:dataCollectionType": ["Experiments", "Software Collection"],
    "rai:dataUseCases": "Learning and comparing methods that say why a trained network disappoints (model "
    "diagnosis), learning from weights, studies of loss landscapes.",
    "rai:dataLimitations": "Small networks for image classification, trained by one recipe over a grid; what holds "
    "on it need not hold for other tasks, larger models or other recipes. Labels rest on means over few seeds: see "
    "their column confidence.",
    "rai:dataBiases": "Failures are those of the grid, and as frequent as it makes them, not as in practice.",
    "rai:personalSensitiveInformation": "None. Weights may hold traces of the public images they were trained on.",
    "rai:dataReleaseMaintenancePlan": "A release does not change; corrections are a new release.",
}


def describe(
    title: str,
    description: str,
    terms: Terms,
    sums: Mapping[str, str],
    sizes: Mapping[str, int],
) -> dict[str, Any]:
    """The release as JSON-LD.

    Args:
        title: Its name.
        description: What it holds.
        terms: Its licence, authors, version and date.
        sums: SHA-256 by file.
        sizes: Bytes by file.
    """
    names = [name for name in COLUMNS if f"{name}.parquet" in sums]
    shards = [name for name in sums if name.startswith(CHECKPOINTS)]
    files = [
        _file(f"{name}.parquet", "application/x-parquet", f"Table {name}.", sums, sizes) for name in names
    ]
    files += [
        _file(
            name, "application/octet-stream", "Weights as safetensors, the run as leading axis.", sums, sizes
        )
        for name in shards
    ]
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": [
            "http://mlcommons.org/croissant/1.1",
            "http://mlcommons.org/croissant/RAI/1.0",
        ],
        "name": title,
        "description": description,
        "license": terms.licence_url,
        "version": terms.version,
        "datePublished": terms.date,
        "creator": [{"@type": "sc:Person", "name": name} for name in terms.authors],
        "keywords": ["model zoo", "model diagnosis", "loss landscape", "weight space"],
        **({"url": terms.url} if terms.url else {}),
        "citeAs": terms.bibtex(title),
        "isLiveDataset": False,
        **RESPONSIBLE,
        "distribution": files,
        "recordSet": [_records(name) for name in names],
    }


def _file(
    name: str, kind: str, what: str, sums: Mapping[str, str], sizes: Mapping[str, int]
) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "description": what,
        "contentUrl": name,
        "contentSize": f"{sizes[name]} B",
        "encodingFormat": kind,
        "sha256": sums[name],
    }


def _records(name: str) -> dict[str, Any]:
    key = {"key": {"@id": f"{name}/{KEYS[name]}"}} if name in KEYS else {}
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": f"Rows of {name}.parquet.",
        **key,
        "field": [_field(name, column) for column in COLUMNS[name]],
    }


def _field(table: str, column: Column) -> dict[str, Any]:
    is_list = pa.types.is_list(column.type)
    refers = [other for other, key in KEYS.items() if key == column.name and other != table]
    return {
        "@type": "cr:Field",
        "@id": f"{table}/{column.name}",
        "name": column.name,
        "description": column.meaning + (f" [{column.unit}]" if column.unit else ""),
        "dataType": TYPES[column.type.value_type if is_list else column.type],
        **({"repeated": True} if is_list else {}),
        **({"references": {"field": {"@id": f"{refers[0]}/{column.name}"}}} if refers else {}),
        "source": {"fileObject": {"@id": f"{table}.parquet"}, "extract": {"column": column.name}},
    }
