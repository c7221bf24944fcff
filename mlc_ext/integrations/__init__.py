"""The method inside other libraries' detectors. Never imported by ``mlc_ext``: each module needs its library."""
