from ._compare import Comparison as Comparison
from ._compare import compare as compare
from ._compare import strata_of as strata_of
from ._gate import GateManifest as GateManifest
from ._gate import GateRun as GateRun
from ._gate import gate as gate
from ._gate import write_added as write_added
from ._options import GateOptions as GateOptions
