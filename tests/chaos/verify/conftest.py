import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # for the attacks, which several tests share
