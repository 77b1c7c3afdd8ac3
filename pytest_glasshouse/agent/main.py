"""Entry point of the guest archive: `agent` is the guest's one long-lived process, `launcher` forks the legs.

Run as `python -I -S <archive> ...`: isolated, without `site`, so that no `.pth`, no sitecustomize and no
PYTHON* variable can add code; site-packages are appended by hand, behind the archive.
"""

from __future__ import annotations

import argparse
import sys

from pytest_glasshouse.guest.launcher import launch_agent, launch_launcher


def main(arguments: list[str] | None = None) -> int:  # noqa: PLR0911  (one for each role)
    """Run one role; the exit status is the process's."""
    parser = argparse.ArgumentParser(prog="glasshouse-guest")
    roles = parser.add_subparsers(dest="role", required=True)
    agent = roles.add_parser("agent", help="serve the host on a unix socket")
    agent.add_argument("--directory", required=True)
    agent.add_argument("--allocation", required=True)
    agent.add_argument("--until-eof", action="store_true", help="end with standard input (a guest on the host's own machine)")
    agent.add_argument("--contact", help="file to touch on every request of the host (a rented guest)")
    launcher = roles.add_parser("launcher", help="import what a workload trains with, and fork its legs (started by the agent)")
    launcher.add_argument("--control", type=int, required=True)
    launcher.add_argument("--pid-fd", type=int, required=True)
    launcher.add_argument("--workload", default="", help="or none: then each leg imports for itself")
    compiler = roles.add_parser("compile", help="fill the private byte-code cache (started by the agent)")
    compiler.add_argument("--workload", required=True)
    sampler = roles.add_parser("covariates", help="sample clocks, power and load once a second (started by the agent)")
    sampler.add_argument("--gpu", type=int, help="the GPU that legs train on, by its index in NVML")
    sampler.add_argument("--no-gpu", default="", help="or why they train on none")
    device = roles.add_parser(
        "device", help="say which GPU torch trains on (started by the agent, or the host on its own machine)"
    )
    download = roles.add_parser("download", help="download a base model from a hub (started by the agent)")
    generator = roles.add_parser("generation", help="make a stand-in's random weights (started by the agent)")
    for role in (agent, launcher, compiler, sampler, device, download, generator):
        role.add_argument("--site-packages", action="append", default=[])
    options = parser.parse_args(arguments)
    if options.role == "launcher":
        launch_launcher(options.pid_fd)
    elif options.role == "agent":
        launch_agent()
    sys.path.extend(options.site_packages)
    # Imported only now: both need packages from the directories appended above.
    if options.role == "agent":
        from pytest_glasshouse.agent.serving import serve

        return serve(
            directory=options.directory,
            allocation=options.allocation,
            site_packages=options.site_packages,
            until_eof=options.until_eof,
            contact=options.contact,
        )
    if options.role == "covariates":
        from pytest_glasshouse.agent.covariate_sampler import serve_samples

        return serve_samples(gpu_index=options.gpu, no_gpu=options.no_gpu)
    if options.role == "device":
        from pytest_glasshouse.guest.torch_probe import answer

        return answer()
    if options.role == "download":
        from pytest_glasshouse.agent.model_download import main as download_model

        return download_model()
    if options.role == "generation":
        from pytest_glasshouse.agent.model_making import main as make_model

        return make_model()
    if options.role == "compile":
        from pytest_glasshouse.guest.training import hide_unneeded, import_training

        hide_unneeded()
        import_training(options.workload, "cpu")
        return 0
    from pytest_glasshouse.guest.leg_launcher import serve_legs

    return serve_legs(options.control, options.workload)
