"""Rows of data sets: where samples come from, in which order, and what of them counts."""

from firstlight.compat.row import OFF, Rows, converted, ignored, refused, renamed, under

_READER = "how batches are read ahead is chosen in data.loader"
_COLUMNS = "a batch has what the model reads"

_LOADER: Rows = (
    *converted(
        "loader",
        "data.train.sources",
        "BlendedMegatronDatasetDataLoader is kind megatron, MindDataset kind mindrecord",
        "type",
    ),
    *refused("only GPTDataset is there", "datasets_type", unless=(*OFF, "GPTDataset")),
    *converted("sizes", "training.steps", "the first: samples of an epoch", "sizes"),
    *converted("num_samples", "training.steps", "samples of an epoch", "num_samples"),
    *converted("is_shuffled", "data.train.order", "of MindRecord: permuted, else sequential", "shuffle"),
    *converted("mindrecord_paths", "data.train.sources", "path", "dataset_dir", "dataset_files"),
    *converted("columns", "data.train.sources", "labels_column where labels are named", "column_names"),
    *ignored(_READER, "python_multiprocessing", "num_shards", "shard_id", "use_broadcast_data", "phase"),
    *ignored("the rows of a set are read as they are", "schema", "padded_sample", "num_padded"),
    *refused(
        "text is read with sources of kind huggingface, and prepared text with firstlight prepare",
        "load_func",
        "path",
        "name",
        "split",
        "streaming",
        "handler.**",
        "adaptor_config.**",
        "packing",
        "data_files",
        "tokenizer.**",
        "dataset_ratios",
        "samples_count",
        "sub_data_loader.**",
        "sub_data_loader_args.**",
        "size",
        "dataset_state_dir",
        "create_attention_mask",
        "create_compressed_eod_mask",
        "compressed_eod_mask_length",
        "map_function_kwargs.**",
        "file_format",
    ),
    *renamed("data_seed", "training.seed", "config.seed"),
    *converted(
        "random_seed",
        "training.seed",
        "MindFormers does not read it and takes 1234",
        "config.random_seed",
    ),
    *renamed("sequence_length", "data.train.sequence_length", "config.seq_length"),
    *converted("blend", "data.train.sources", "weights and prefixes in turn, or prefixes alone", "config.data_path"),
    *converted("train_blend", "data.train.sources", "as data_path", "config.train_data_path"),
    *renamed("split", "data.train.split", "config.split"),
    *converted("mask_after_end", "data.train.mask_after_end_of_document", "as written", "config.eod_mask_loss"),
    *converted(
        "positions_restart", "data.train.documents", "separate, together with the mask", "config.reset_position_ids"
    ),
    *converted("mask_restarts", "data.train.documents", "separate where true", "config.reset_attention_mask"),
    *converted("compressed_mask", "data.train.documents", "separate where true", "config.create_compressed_eod_mask"),
    *renamed("index_cache", "data.train.index_cache", "config.path_to_cache"),
    *ignored("attention is causal, without a mask in memory", "config.create_attention_mask"),
    *ignored("the tokenizer knows the end of a document", "config.eod"),
    *ignored("samples are full, and need no padding", "config.pad", "config.add_extra_token_to_sequence"),
    *ignored("masks of any number of documents fit", "config.eod_pad_length", "config.compressed_eod_mask_length"),
    *ignored(
        "files are mapped, and an index is built in seconds",
        "config.num_dataset_builder_threads",
        "config.mmap_bin_files",
    ),
    *ignored(
        "MindFormers trains on the first share alone; firstlight evaluates what data.evaluate names",
        "config.valid_data_path",
        "config.test_data_path",
        "config.drop_last_partial_validation_sequence",
    ),
    *refused("data sets are read from files", "config.s3_cache_path"),
    *ignored("the tokens are in the data set", "config.tokenizer", "config.vocab_size", "config.mock"),
)


DATASET_ROWS: Rows = (
    *under("data_loader", _LOADER),
    *converted("columns", "data.train.sources", "labels_column where labels are named", "input_columns"),
    *converted("dataset_seed", "training.seed", "of MindRecord, where it is shuffled", "seed"),
    *ignored(_COLUMNS, "construct_args_key", "output_columns", "column_order", "project_columns"),
    *ignored(
        _READER,
        "num_parallel_workers",
        "python_multiprocessing",
        "numa_enable",
        "prefetch_size",
        "max_rowsize",
        "autotune_per_step",
        "filepath_prefix",
        "auto_tune",
        "profile",
        "shuffle",
    ),
    *ignored("every step has a whole batch", "drop_remainder"),
    *ignored("the micro-batch is runner_config.batch_size", "batch_size"),
    *converted("repeat", "training.steps", "a factor of the samples of an epoch", "repeat"),
    *refused("sequences have one length", "dynamic_batch", "divisor", "remainder", "pad_token_id"),
    *refused("documents of MindRecord rows are not told apart", "eod_reset", "eod_token_id"),
    *refused("tasks with instructions are not for pretraining", "tokenizer.**", "text_col", "is_align"),
)

PYNATIVE_DATASET_ROWS: Rows = (
    *under("dataloader", _LOADER),
    *ignored(_READER, "num_parallel_workers", "prefetch_size", "numa_enable", "use_distribute_dataset"),
    *ignored("every step has a whole batch", "drop_remainder"),
)
