"""Every Pixel: semantic segmentation, taught and measured.

Import the modules you need (`from course_lib import metrics`); this file stays empty of work so that
`import course_lib` costs nothing beside `import torch`.
"""

__version__ = "0.1.0"
