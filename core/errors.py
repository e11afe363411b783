"""The errors of the house: few, each with a stable code and a sentence that says what to do."""


class PigeonholeError(Exception):
    """Something that a user can act on. The message is the whole story; no traceback is needed."""

    code = "error"


class ImageError(PigeonholeError):
    """These bytes cannot be classified; every other image can.

    `code` is one of `empty_file`, `unsupported_format`, `unreadable_image`, `too_many_pixels`,
    `too_large`.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class BundleError(PigeonholeError):
    """A model bundle is missing, incomplete, altered or of a format that we do not know."""

    code = "bad_bundle"


class ModelError(PigeonholeError):
    """The model broke down over an image; it may answer the next one, or never again."""

    code = "model_failed"


class SettingsError(PigeonholeError):
    """A setting has a value that cannot work."""

    code = "bad_settings"


class EngineBusyError(PigeonholeError):
    """More images wait than the engine accepts; come back in a moment."""

    code = "busy"


class StoreError(PigeonholeError):
    """The database cannot be used as it is."""

    code = "bad_database"
