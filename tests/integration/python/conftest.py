import threading
import warnings

import pytest
from clusters import HAVE_ETCD, World


@pytest.fixture(scope="session")
def _world(tmp_path_factory):
    if not HAVE_ETCD:
        pytest.exit("no etcd on this machine: apt install etcd-server", 77)
    world = World(tmp_path_factory.mktemp("world"))
    yield world
    world.kill()


@pytest.fixture
def world(_world):
    """Two clusters with what World.fill() puts there."""
    _world.fill()
    return _world


@pytest.fixture
def mesh(world):
    import libmesh

    with libmesh.Mesh(**world.options()) as mesh:
        mesh.wait_ready(60)
        yield mesh


@pytest.fixture(autouse=True)
def _nothing_is_left():
    """A test that forgets to close something fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        yield
    names = [thread.name for thread in threading.enumerate() if thread.name.startswith("libmesh")]
    assert not names
