from .anchors import load_anchors as load_anchors
from .data import read_rows as read_rows
from .errors import RipcurrentError as RipcurrentError
from .evaluate import CheckOptions as CheckOptions
from .evaluate import CheckRun as CheckRun
from .evaluate import EvaluationRun as EvaluationRun
from .evaluate import check as check
from .evaluate import evaluate as evaluate
from .evaluate import validate_judges as validate_judges
from .experiment import Experiment as Experiment
from .experiment import ExperimentResults as ExperimentResults
from .finetune import FinetuneRun as FinetuneRun
from .finetune import finetune as finetune
from .forecast import calibrate as calibrate
from .forecast import forecast as forecast
from .gate import GateOptions as GateOptions
from .gate import GateRun as GateRun
from .gate import gate as gate
from .models import load_model as load_model
from .report import build_report as build_report
from .scan import ScanOptions as ScanOptions
from .scan import ScanRun as ScanRun
from .scan import doctor as doctor
from .scan import load_tokens as load_tokens
from .scan import scan as scan
from .select import select as select

__version__: str
