"""What tests of this package and of its plug-ins share: suites to subclass, and fakes.

:mod:`fasthep_flow.testing.runtimes` is for whoever adds a container engine,
:mod:`fasthep_flow.testing.runners` for whoever adds an orchestrator.
"""
