//! Whether a thread that runs tasks still gets to them: asked now and then, it must answer.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// A thread that does not get to a task for so long hangs.
const LIMIT: Duration = Duration::from_secs(5);

/// Questions and answers, by number: however many ask at once, there is one question to be answered.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    asked: watch::Sender<u64>,
    answered: watch::Sender<u64>,
}

impl Pulse {
    /// Answers for as long as the thread gets to it.
    pub(super) async fn beat(&self) {
        let mut asked = self.asked.subscribe();
        while asked.changed().await.is_ok() {
            self.answered.send_replace(*asked.borrow_and_update());
        }
    }

    /// Whether the thread answers. One that has not begun to is not asked: it is busy starting.
    pub(super) async fn felt(&self) -> bool {
        if self.asked.receiver_count() == 0 {
            return true;
        }
        let mut answered = self.answered.subscribe();
        let mut mine = 0;
        self.asked.send_modify(|asked| {
            *asked += 1;
            mine = *asked;
        });
        timeout(LIMIT, answered.wait_for(|answered| *answered >= mine)).await.is_ok()
    }
}
