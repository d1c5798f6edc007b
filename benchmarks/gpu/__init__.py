"""Every figure that only a GPU can give, in a few minutes on one: ``python -m benchmarks.gpu --minutes 8 --out DIR``.

`parts` lists what is measured, in order of value. `driver` shares the time out and runs the cases of each part in
processes of their own (`child`), so that nothing that fails or hangs takes the rest with it; `record` writes what was
found after every case. `bundle` collects what a bare machine lacks.
"""
