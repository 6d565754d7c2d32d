"""The OCI runtime wrapper and everything that must not need more than the standard library.

A short-lived process (``podthaw-runc``) stands on the start path of every container that uses
the runtime, so the modules here import the standard library only, and the ones on that path as
little of it as they can.

Map
    ``__main__``   the command: scan the arguments, restore or exec the runtime below
    ``argv``       what the shim needs to know of runc's command line
    ``plan``       the order that the node daemon leaves for one container, and the answer
    ``runlog``     errors as runc reports them; ``runtime``: the program below
    ``restore``    ``create`` of a container that has a plan; ``worker`` takes the steps:
                   ``rootfs_apply`` and ``shm`` bring files, ``supervise`` runs runc
    ``wake``       the hook of a restored workload; ``hooks``: what a hook is, how it is done
    ``undo``       takes a restore back by its ``journal``: ``cgroups``, ``mounts``, ``overlay``
    ``treewalk``   changes in a tree whose names and links are not trusted
    ``rootfs``     the writable layer, read at capture
    ``spec``       facts of an OCI runtime spec: security profile, mounts, identity
    ``snapshot``   the manifest of a snapshot
    ``host``       what a snapshot needs of a host, and whether this host has it
    ``container``  a running container as containerd's shim and runc left it on the node
    ``inspection`` collects from ``procfs``, ``sockets``, ``external`` the ``picture`` of it
    ``preflight``  what would make a dump fail (``finding``), told before anything is frozen
    ``openfiles``  the part of it that looks at open descriptors
    ``capture``    dump of a running container: ``dumprun``, ``handshake``, ``rootfs``, ``watches``
    ``guardian``   undoes what a killed capture left: ``leftovers``
    ``criu``       CRIU's command line, logs and image files
    ``errors``     the three things that can go wrong, named by what the caller does next
"""
