"""Releases: a zoo as a data set that others download, check, cite and load with the tools they have.

    README.md            data-set card, with the front matter that a hub reads
    zoo.json             the manifest that `zoo.open` reads; spec.toml is its spec
    <table>.parquet      configs, runs, history, metrics, labels
    checkpoints/         shards of weights; the table runs says which run is where
    croissant.json       the same for machines (MLCommons Croissant 1.1)
    CITATION.cff         how to cite it
    blocks.parquet       SHA-256 of each 4 KiB of every file above
    SHA256SUMS           SHA-256 of every file above, as `sha256sum -c` reads it; written last

A release is a zoo without fragments, whose stacks are packed into shards by architecture and width.
"""
