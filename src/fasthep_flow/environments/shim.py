# Every Python 3 must be able to read this text, if only to say that it is too old.
# ruff: noqa: PTH105, PTH109, PTH113, PTH116, PTH118, PTH123, S606, UP032
"""Calls a callable in any interpreter: Python 3.6 or newer and nothing else is needed there.

The text of this file is sent to the interpreter; the package never imports it. It finds one
of these in ``sys.argv``, behind its own text::

    call DIRECTORY
        Call what DIRECTORY/call.json says, and answer in DIRECTORY/reply.json.
    serve /
        Be what serves in a container that has no shell: read one order a line, as JSON, run
        its program with the output in its folder, and say what became of it.
    enter FOLDER [STDERR]
        Read one such order in FOLDER/orders, run its program on the streams that there are,
        standard error being the descriptor STDERR, and answer in FOLDER/answers.

The reply holds ``value``, or ``failure``, or ``exit`` where the callable itself ended the
process with success; and ``peak``, the bytes that were in use.
"""

import importlib
import json
import math
import os
import resource
import signal
import stat
import sys
import time
import traceback

HERE = "<fasthep-flow>"
OLDEST = (3, 6)
LONGEST_TRACEBACK = 65536
# Readers of JSON take a few more, which Python itself may have been told not to write.
MOST_DIGITS = 4000
TOO_LARGE = 10**MOST_DIGITS
CGROUP = "/sys/fs/cgroup/"
FIRST_PROCESSES = 32
LINGER_S = 0.5
PATIENCE_S = 5.0
TICK_S = 0.005
ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def refusal(kind: str, message: str, hint: "str | None" = None) -> "dict[str, object]":
    """A reply that says why there is no value."""
    return {"failure": {"kind": kind, "message": message, "hint": hint}}


def not_plain(value: object, where: str) -> "str | None":
    """What in ``value`` JSON cannot say as it is, or None."""
    if isinstance(value, (list, tuple)):
        items = [("{}[{}]".format(where, index), item) for index, item in enumerate(value)]
    elif isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                return "{} has the key {}, which is not text".format(where, shown(key))
        items = [("{}[{!r}]".format(where, key), item) for key, item in value.items()]
    else:
        return not_plain_scalar(value, where)
    for place, item in items:
        problem = not_plain(item, place)
        if problem:
            return problem
    return None


def not_plain_scalar(value: object, where: str) -> "str | None":
    """The same for a value that is neither a list nor a mapping."""
    if value is None or (isinstance(value, int) and -TOO_LARGE < value < TOO_LARGE):
        return None
    if isinstance(value, int):
        return "{} is a number of more than {} digits".format(where, MOST_DIGITS)
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            return "{} is text that is not Unicode".format(where)
        return None
    if isinstance(value, float):
        return None if math.isfinite(value) else "{} is {}".format(where, value)
    return "{} is of type {}".format(where, type_of(value))


def type_of(value: object) -> str:
    """The name of a value's type."""
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else kind.__module__ + "." + kind.__name__


def shown(value: object) -> str:
    """A value as Python shows it, or its type where it cannot be shown."""
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - of the author's code, or of a number that is too long
        return "of type " + type_of(value)


def reply_with(value: object) -> "dict[str, object]":
    """The reply that carries ``value``."""
    try:
        problem = not_plain(value, "the returned value")
    except RecursionError:
        problem = "the returned value is nested without end"
    if problem:
        hint = "return numbers, text, lists and mappings; write anything else to a file"
        return refusal("result", problem + ", not plain data", hint)
    return {"value": value}


def find(target: str) -> "tuple[object, dict[str, object] | None]":
    """The callable of that name, or a refusal. Errors of the module's own code are raised."""
    module_name, _, name = target.partition(":")
    found = None
    try:
        found = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing != module_name and not module_name.startswith(missing + "."):
            raise
        # package.module.Class.method, where dots alone do not say where the module ends
        outer, _, last = module_name.rpartition(".")
        if outer and missing == module_name:
            found = getattr(importlib.import_module(outer), last, None)
        if found is None:
            hint = "looked for in {} and where python3 has its packages".format(os.getcwd())
            return None, refusal("not_started", "there is no module {!r}".format(missing), hint)
    where = "module {!r}".format(module_name)
    for part in name.split("."):
        if not hasattr(found, part):
            message = "{} has no {!r}".format(where, part)
            hint = "its file is {}".format(getattr(found, "__file__", "not known"))
            return None, refusal("not_started", message, hint)
        found = getattr(found, part)
        where = repr(part)
    if not callable(found):
        return None, refusal("not_started", "{!r} is not callable".format(target))
    return found, None


def describe(error: BaseException) -> "dict[str, object]":
    """The reply that tells of an exception, by the frames of the author's alone."""
    trace = error.__traceback__
    ours = (HERE, importlib.__file__, "<frozen importlib")
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(ours):
        trace = trace.tb_next
    text = "".join(traceback.format_exception(type(error), error, trace))
    sys.stderr.write(text)
    summary = traceback.format_exception_only(type(error), error)[-1].strip()
    reply = refusal("exception", summary)
    reply["failure"]["traceback"] = text[-LONGEST_TRACEBACK:]  # type: ignore[index]
    return reply


def peak_memory() -> int:
    """The most bytes that this process, or one of its children, had in memory."""
    unit = 1 if sys.platform == "darwin" else 1024
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    try:
        # The kernel's account above starts before this program did, with its parent's memory.
        with open("/proc/self/status", "rb") as status:
            for line in status:
                if line.startswith(b"VmHWM:"):
                    own = int(line.split()[1]) * 1024
    except OSError:
        pass
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit)


def write_reply(directory: str, reply: "dict[str, object]") -> None:
    """Write the reply so that it is there as a whole, or not at all."""
    reply["peak"] = peak_memory()
    path = os.path.join(directory, "reply.json")
    with open(path + ".new", "w", encoding="ascii") as file:
        json.dump(reply, file, allow_nan=False)
    os.replace(path + ".new", path)


def call(directory: str) -> int:
    """Call what the request says; the exit code."""
    with open(os.path.join(directory, "call.json"), "rb") as file:
        request = json.loads(file.read().decode("utf-8"))
    folder = os.getcwd()
    sys.path.insert(0, folder)
    sys.argv = [request["target"]]
    # Where the author's module is called as one of the library's, the author's is meant.
    first = request["target"].partition(":")[0].partition(".")[0]
    if first not in sys.builtin_module_names and (
        os.path.isfile(os.path.join(folder, first + ".py"))
        or os.path.isfile(os.path.join(folder, first, "__init__.py"))
    ):
        sys.modules.pop(first, None)
    try:
        target, reply = find(request["target"])
        if reply is None:
            value = target(*request["args"], **request["kwargs"])  # type: ignore[operator]
            if isinstance(target, type) and callable(value):
                # What the class makes of the arguments is the callable.
                value = value()
            reply = reply_with(value)
    except SystemExit as error:
        if error.code is None or error.code == 0:
            write_reply(directory, {"exit": 0})
        raise
    except BaseException as error:  # noqa: BLE001 - all that ends the callable is its answer
        reply = describe(error)
    write_reply(directory, reply)
    if "failure" not in reply:
        return 0
    failure = reply["failure"]
    if failure["kind"] != "exception":  # type: ignore[index]
        sys.stderr.write(failure["message"] + "\n")  # type: ignore[index]
    return 1


def cgroup_counters() -> "dict[str, int]":
    """What the container's control group counted, under cgroup version 1 or 2."""
    counters = {}
    for name, path, key in (
        ("peak", "memory.peak", ""),
        ("peak", "memory/memory.max_usage_in_bytes", ""),
        ("oom_kill", "memory.events", "oom_kill"),
        ("oom_kill", "memory/memory.oom_control", "oom_kill"),
        ("cpu_us", "cpu.stat", "usage_usec"),
        ("cpu_ns", "cpuacct/cpuacct.usage", ""),
    ):
        try:
            with open(CGROUP + path) as file:
                for line in file:
                    words = line.split()
                    if len(words) == 1 + bool(key) and words[0].startswith(key):
                        counters[name] = int(words[-1])
        except (OSError, ValueError):
            continue
    return counters


def said(number: int, *facts: "tuple[str, object]") -> bytes:
    """What is said of a job to who feeds this process."""
    lines = ["fasthep {} {} {}\n".format(number, key, value) for key, value in facts]
    return "".join(lines).encode("utf-8", "replace")


def lacking(nodes: "list[str]", listed: "list[str]") -> str:
    """The first device file that is not there, or device that is not listed; empty if none is."""
    for path in filter(None, nodes):
        try:
            if stat.S_ISCHR(os.stat(path).st_mode):
                continue
        except OSError:
            pass
        return path
    if any(listed):
        import subprocess

        try:
            lines = subprocess.Popen(
                ["nvidia-smi", "-L"],  # noqa: S607 - the image's
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            ).communicate()[0]
        except OSError:
            # Most images have no such program.
            return ""
        for identity in listed:
            if os.fsencode(identity) not in lines:
                return identity
    return ""


def run(
    number: int,
    texts: "dict[str, str]",
    argv: "list[str]",
    variables: "dict[str, str | None]",
) -> None:
    """Become the program, in the process that was forked for it."""
    # What Python opens is closed in the program, a copy by this is not.
    os.dup2(os.open(texts["stdin"], os.O_RDONLY), 0)
    answers = os.dup(1)
    os.set_inheritable(answers, False)
    for descriptor, log in ((1, "stdout.log"), (2, "stderr.log")):
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        os.dup2(os.open(os.path.join(texts["directory"], log), flags, 0o666), descriptor)
    become(number, texts, argv, variables, answers)


def become(
    number: int,
    texts: "dict[str, str]",
    argv: "list[str]",
    variables: "dict[str, str | None]",
    answers: int,
) -> None:
    """Become the program, whose streams are there."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("100")
    except OSError:
        pass
    for signum in (*ASKING, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(signum, signal.SIG_DFL)
    lacks = lacking(texts["nodes"].split("\0"), texts["listed"].split("\0"))
    if lacks:
        os.write(answers, said(number, ("lacks", lacks)))
        os._exit(125)
    try:
        os.chdir(texts["working_directory"])
    except OSError:
        os.write(answers, said(number, ("lost", 1)))
        os._exit(125)
    if argv[0] == "python3" and "PATH" not in variables:
        # The interpreter that the engine found may not be the first on the PATH.
        argv[0] = sys.executable
    os.write(answers, said(number, ("started", 1)))
    try:
        environment = {**os.environ, "HOME": texts["directory"], **variables}
        present = {name: value for name, value in environment.items() if value is not None}
        os.execvpe(argv[0], argv, present)
    except FileNotFoundError:
        os.write(answers, said(number, ("missing", 1)))
    except OSError as error:
        os.write(2, "{}: {}\n".format(argv[0], error).encode("utf-8", "replace"))
        os._exit(126)
    os._exit(127)


def text(digits: str) -> str:
    """What the hexadecimal digits stand for: in them no byte of it is lost on the way."""
    return os.fsdecode(bytes.fromhex(digits))


def end_others() -> bool:
    """End all processes but this one and the first; whether nothing of a job's is left.

    Only where these are the job's alone: in a process namespace of the container's own.
    """
    if os.getpid() > FIRST_PROCESSES:
        return True
    kill_s = time.monotonic() + LINGER_S
    until_s = kill_s + PATIENCE_S
    while time.monotonic() < until_s:
        try:
            os.kill(-1, 0 if time.monotonic() < kill_s else signal.SIGKILL)
        except OSError:
            return True
        try:
            reaped = os.waitpid(-1, os.WNOHANG)[0]
        except OSError:
            reaped = 0
        if not reaped:
            time.sleep(TICK_S)
    return False


def what_is_left() -> str:
    """What is in the container's memory that no process has; empty where that is nothing."""
    for folder in ("/dev/shm", "/dev/mqueue"):  # noqa: S108 - in a container
        try:
            if os.listdir(folder):  # noqa: PTH208
                return "files"
        except OSError:
            continue
    for kind in ("shm", "msg", "sem"):
        try:
            with open("/proc/sysvipc/" + kind) as file:
                if len(file.readlines()) > 1:
                    return kind
        except OSError:
            continue
    return ""


def what_of(
    order: "dict[str, str]", argv: "list[str]", variables: "dict[str, str | None]"
) -> "tuple[dict[str, str], list[str], dict[str, str | None]]":
    """The same three in plain text: an order's folders, its words and its variables."""
    names = ("directory", "working_directory", "stdin", "nodes", "listed")
    return (
        {name: text(order[name]) for name in names},
        [text(word) for word in argv],
        {text(name): None if value is None else text(value) for name, value in variables.items()},
    )


def enter(folder: str, stderr: "list[str]") -> int:
    """Run one program on the streams that there are; see shell.py for what is said.

    Args:
        folder: Where the order is read, and answered.
        stderr: The descriptor that is the program's standard error, if that is another one.
    """
    for signum in ASKING:
        signal.signal(signum, lambda *_: None)
    answers = os.open(os.path.join(folder, "answers"), os.O_WRONLY)
    for number in map(int, stderr):
        os.dup2(number, 2)
        os.close(number)
    with open(os.path.join(folder, "orders"), "rb") as file:
        order = json.loads(file.read().decode("ascii"))
    child = os.fork()
    if not child:
        try:
            words, variables = order["argv"], order["variables"]
            become(order["number"], *what_of(order, words, variables), answers)
        finally:
            os._exit(125)
    pid, code = os.wait()
    while pid != child:
        pid, code = os.wait()
    ended = ("exit", os.WEXITSTATUS(code))
    if os.WIFSIGNALED(code):
        ended = ("signal", os.WTERMSIG(code))
    os.write(answers, said(order["number"], ended, ("end", 1)))
    return ended[1]


def serve() -> int:
    """Be what serves in a container that has no shell; see shell.py for what is said."""
    for signum in ASKING:
        # They are meant for the job.
        signal.signal(signum, lambda *_: None)
    os.write(1, "ready {}\n".format(os.getpid()).encode())
    while True:
        line = sys.stdin.buffer.readline()
        if not line:
            return 0
        order = json.loads(line.decode("ascii"))
        job = order["number"]
        os.write(1, b"\n" + said(job, ("begun", 1)))
        child = os.fork()
        if not child:
            try:
                run(job, *what_of(order, order["argv"], order["variables"]))
            finally:
                os._exit(125)
        pid, code = os.wait()
        while pid != child:
            pid, code = os.wait()
        is_alone = end_others()
        ended = ("exit", os.WEXITSTATUS(code))
        if os.WIFSIGNALED(code):
            ended = ("signal", os.WTERMSIG(code))
        left = what_is_left() if is_alone else "processes"
        answer = b"\n" + said(job, ended, *cgroup_counters().items())
        if left:
            answer += said(job, ("left", left))
        os.write(1, answer + said(job, ("end", 1)))


def main(argv: "list[str]") -> int:
    """Do what the command line says; the exit code."""
    role, directory = argv[0], argv[1]
    if role == "serve":
        return serve()
    if role == "enter":
        return enter(directory, argv[2:])
    if sys.version_info < OLDEST:
        message = "python3 is {}.{} there".format(*sys.version_info[:2])
        write_reply(directory, refusal("not_started", message, "a callable needs 3.6 or newer"))
        return 1
    return call(directory)


if __name__ == "__main__":
    sys.exit(main(sys.argv[2:]))
