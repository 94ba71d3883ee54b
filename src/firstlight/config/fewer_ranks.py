"""A run on fewer ranks than it was started with: its data-parallel degree shrinks, all other axes stay as they are."""

from firstlight.config.schema import RunConfig


def on_fewer_ranks(config: RunConfig, world_size: int, *, whole: int) -> RunConfig:
    """`config`, made for `whole` ranks, for `world_size` of them; the rules say whether that can be.

    Replicas leave first: what each rank holds then stays as large as it was. Where that does not divide the shards
    become fewer, and larger.
    """
    if world_size == whole:
        return config
    parallelism = config.parallelism
    replicas = parallelism.data_parallel_replicate
    others = parallelism.fixed_size // replicas
    shards, left = max(whole // parallelism.fixed_size, 1), world_size // others
    if left % shards == 0 and left:
        replicas = left // shards
    elif left % replicas:
        replicas = 1
    takes_what_is_left = parallelism.data_parallel_shard == -1
    degrees = {
        "data_parallel_replicate": replicas,
        "data_parallel_shard": -1 if takes_what_is_left else max(left // replicas, 1),
    }
    return config.model_copy(update={"parallelism": parallelism.model_copy(update=degrees)})
