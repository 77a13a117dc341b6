"""Chapter notebooks under nbval: nbval's own cells, on a kernel that is watched."""

from nbval.plugin import IPyNbFile

from attncourse.grading.kernel import Kernel

OUTPUT_SECONDS = 30.0  # nbval allows 5 s between a reply and its outputs; a busy machine needs more


class ChapterFile(IPyNbFile):
    """A chapter: every cell an item, compared as nbval does."""

    def setup(self):
        """Start the kernel of the running Python, whatever kernel the notebook names.

        Without a GPU, for so the outputs were made that it is compared with. `attncourse gpu-run`
        executes chapters on one.
        """
        seconds = self.config.option.nbval_kernel_startup_timeout
        self.kernel = Kernel(self.path.parent, startup_seconds=seconds, hide_gpu=True)
        self.setup_sanitize_files()

    def collect(self):
        """Yield nbval's items."""
        for item in super().collect():
            item.output_timeout = OUTPUT_SECONDS
            yield item
