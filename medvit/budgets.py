"""Every limit on untrusted input, in one place: what is larger, deeper, longer or slower is refused with a reason."""

MIB, GIB = 2**20, 2**30

# One DICOM file.
FILE_BYTES = 2 * GIB
SLIDE_BYTES = 512 * GIB  # of a whole slide, which is read tile by tile and never as a whole
INFLATED_BYTES = 512 * MIB  # a data set that was deflated
ELEMENTS = 200_000
ITEMS = 50_000  # of all sequences together
NESTING = 64  # sequences within sequences
FRAGMENTS = 200_000  # of compressed pixels

# Its pixels.
FRAME_PIXELS = 200_000_000  # rows times columns of one frame
FRAMES = 100_000
DECODED_BYTES = 2 * GIB  # all frames together
DECODED_RATIO = 1_000  # decoded to compressed bytes, for what decodes to more than
RATIO_FREE_BYTES = 4 * MIB
VOLUME_VOXELS = 300_000_000  # all slices of a volume together; four bytes each once they are read
CLIP_PIXELS = 300_000_000  # all frames of a clip together; four bytes each once they are read

# One call of a worker process.
CPU_S = 20
WALL_S = 60
ADDRESS_BYTES = 6 * GIB  # beyond what its libraries map before the first call
WRITTEN_BYTES = 4 * GIB  # one file written by a worker
REPLY_BYTES = 3 * GIB  # what a worker may answer: arrays of one case
HEAD_BYTES = 16 * MIB  # and what it may say about them
LOAD_S = 300  # until a worker has imported what it needs; it has seen no input by then

# One zip.
ZIP_MEMBERS = 2_000
ZIP_BYTES = 4 * GIB  # all members together, as counted while they are unpacked
ZIP_RATIO = 200  # unpacked to packed

# One answer of an archive.
ANSWER_BYTES = 32 * MIB  # of a query; an object may have FILE_BYTES
MATCHES = 1_000_000  # of one query, all pages together
CONNECT_S = 10
SILENCE_S = 30  # nothing comes
ANSWER_S = 60  # until it has come, and
SLOWEST_BYTES_S = 100_000  # a second more for every so many bytes
