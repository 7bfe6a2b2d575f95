#!/usr/bin/env python3
"""What a sidecar adds to a pod's start: from the request for a pod to the first line of its application, without and with one, in turns.

    tests/pod_start.py CLUSTER NODE IMAGE [TURNS]

CLUSTER is a StorageCluster in kubectl's namespace, NODE a node that runs on this machine, as kind's do, for the clock that is read inside
the pod is this machine's uptime. IMAGE has a shell, and is on NODE already.
"""

import json
import statistics
import subprocess
import sys
import time


def uptime():
    with open("/proc/uptime") as told:
        return float(told.read().split()[0])


def started(name, node, image, annotations):
    """Seconds from the request for the pod to what its application does first."""
    container = {"name": "application", "image": image, "imagePullPolicy": "Never", "command": ["sh", "-c", "cat /proc/uptime"]}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"nodeName": node, "restartPolicy": "Never", "containers": [container]},
    }
    began = uptime()
    subprocess.run(["kubectl", "create", "--filename", "-"], input=json.dumps(pod), text=True, check=True, stdout=subprocess.DEVNULL)
    logs = ["kubectl", "logs", name, "--container", "application"]
    until = time.monotonic() + 60
    told = ""
    while not told.strip():
        assert time.monotonic() < until, f"pod {name} said nothing for a minute"
        time.sleep(0.2)
        told = subprocess.run(logs, capture_output=True, text=True).stdout
    subprocess.run(["kubectl", "delete", "pod", name, "--wait=false"], check=True, stdout=subprocess.DEVNULL)
    return float(told.split()[0]) - began


def main():
    cluster, node, image = sys.argv[1:4]
    turns = int(sys.argv[4]) if len(sys.argv) > 4 else 10
    plain, injected = [], []
    for turn in range(turns):
        plain.append(started(f"plain-{turn}", node, image, {}))
        # A kubelet looks at its pods each second: each turn meets it at another moment.
        time.sleep(0.37 * (turn % 5))
        injected.append(started(f"injected-{turn}", node, image, {"annulus.dev/inject": cluster}))
        print(f"{plain[-1]:.2f} s, with a sidecar {injected[-1]:.2f} s", flush=True)
    medians = statistics.median(plain), statistics.median(injected)
    print(f"medians {medians[0]:.2f} and {medians[1]:.2f} s: {medians[1] - medians[0]:.2f} s more")


if __name__ == "__main__":
    main()
