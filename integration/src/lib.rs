//! What the demo, the simulator and the tests of the whole are made of: an embedded Kubernetes API,
//! nodes with disks and boot firmware, workloads, and an observer that checks the invariants. Nothing
//! here is part of what runs in a cluster, and nothing of Drydock uses it.

pub mod apiserver;
pub mod cluster;
pub mod demo;
pub mod firmware;
pub mod image;
pub mod node;
pub mod observer;
pub mod realcluster;
pub mod realnode;
pub mod realstory;
pub mod sweep;
pub mod workload;
