"""sae_moral on Ray: studies as Ray tasks (`ray_workers`), capture as Ray Data over actors (`ray_capture`).

Ray starts the processes, gives each its devices, and starts again those that die. Who does what is decided by the
package itself: tasks divide a study by the leases of its folder (`sae_moral.io.leases`), and a capture has the batches
of a capture in one process. So the results are those of one process, bit for bit.
"""

from sae_moral_ray.captures import ray_capture
from sae_moral_ray.tasks import ray_workers

__all__ = ["ray_capture", "ray_workers"]
