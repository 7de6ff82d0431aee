//! Who walks: in words, and where what is to be set belongs.

/// Where a walk begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// A pod, a network namespace, this node.
    pub name: String,
    /// Where a command for it is to be given.
    pub place: String,
    /// It is a pod with a network of its own, which a network plugin sets up.
    pub is_plugged: bool,
}

impl Who {
    /// This node.
    #[must_use]
    pub fn node() -> Self {
        Self::of_node("this node".to_owned())
    }

    /// What has this node's own network, such as a pod with `hostNetwork`.
    #[must_use]
    pub fn of_node(name: String) -> Self {
        Self { name, place: "on this node".to_owned(), is_plugged: false }
    }

    /// A pod.
    #[must_use]
    pub fn pod(name: String) -> Self {
        Self { place: format!("in {name}"), name, is_plugged: true }
    }

    /// A container that has a network of its own in this pod, by one of its processes.
    #[must_use]
    pub fn within(pod: String, pid: u32) -> Self {
        Self {
            place: format!("in the network namespace of process {pid} in {pod}"),
            name: pod,
            is_plugged: false,
        }
    }

    /// A network namespace.
    #[must_use]
    pub fn netns(name: &str) -> Self {
        let name = format!("network namespace {name}");
        Self { place: format!("in {name}"), name, is_plugged: false }
    }
}
