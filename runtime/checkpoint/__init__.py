"""The state of a training job on disk: written by the ranks that hold it, read by slices on any grid."""
