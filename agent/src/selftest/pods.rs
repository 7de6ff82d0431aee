//! The selftest's two pods: they exist in the kernel side's slot maps only.

use std::num::NonZeroU16;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use crate::pod::{FindPod, Pod, PodSlots, Slot, SlotKey, Subject};

/// Namespace of both.
pub(super) const NAMESPACE: &str = "r2c-selftest";
/// Their names.
pub(super) const NAMES: [&str; 2] = ["a", "b"];
const SLOTS: [Slot; 2] = [Slot(NonZeroU16::MIN), Slot(NonZeroU16::MIN.saturating_add(1))];

/// Knows the two pods by slot and by network namespace, and nobody else.
pub(super) struct TestPods {
    inodes: [u32; 2],
    pods: [Arc<Pod>; 2],
    /// The probe's slot maps: a map that is closed before its program is loaded is not there to be loaded with.
    slots: Mutex<Vec<Box<dyn PodSlots>>>,
}

impl TestPods {
    /// Pods that live in the namespaces of these inodes.
    pub(super) fn new(inodes: [u32; 2]) -> Self {
        let pods = NAMES.map(|name| {
            let (namespace, name) = (NAMESPACE.to_owned(), name.to_owned());
            Arc::new(Pod { namespace, uid: format!("selftest-{name}"), name })
        });
        Self { inodes, pods, slots: Mutex::default() }
    }

    /// Tells a probe's kernel side which namespace is whose.
    ///
    /// # Errors
    /// A map refused it.
    pub(super) fn register(&self, mut slots: Box<dyn PodSlots>) -> std::io::Result<()> {
        for (inode, slot) in self.inodes.iter().zip(SLOTS) {
            slots.bind(SlotKey::Netns(*inode), slot)?;
        }
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).push(slots);
        Ok(())
    }
}

impl FindPod for TestPods {
    fn find_pod(&self, subject: Subject, _: SystemTime) -> Option<Arc<Pod>> {
        let at = match subject {
            Subject::Slot(slot) => SLOTS.iter().position(|known| *known == slot),
            Subject::Netns(inode) => self.inodes.iter().position(|known| *known == inode),
            Subject::Address(_) | Subject::Cgroup(_) => None,
        }?;
        Some(Arc::clone(&self.pods[at]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Bound(Arc<Mutex<Vec<(SlotKey, Slot)>>>);

    impl PodSlots for Bound {
        fn bind(&mut self, key: SlotKey, slot: Slot) -> std::io::Result<()> {
            self.0.lock().unwrap().push((key, slot));
            Ok(())
        }
        fn unbind(&mut self, _: SlotKey) {}
        fn retire(&mut self, _: Slot) {}
    }

    #[test]
    fn what_the_kernel_side_is_told_is_what_is_found() {
        let (pods, bound) = (TestPods::new([77, 88]), Bound::default());
        pods.register(Box::new(bound.clone())).unwrap();
        let bound = bound.0.lock().unwrap().clone();
        assert_eq!(bound.len(), 2);
        for (name, (key, slot)) in NAMES.iter().zip(bound) {
            let SlotKey::Netns(inode) = key else { panic!("{key:?}") };
            let now = SystemTime::now();
            assert_eq!(pods.find_pod(Subject::Slot(slot), now).unwrap().name, *name);
            assert_eq!(pods.find_pod(Subject::Netns(inode), now).unwrap().name, *name);
        }
        assert!(pods.find_pod(Subject::Netns(99), SystemTime::now()).is_none());
    }
}
