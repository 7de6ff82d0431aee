//! Which suspects are walked to, in which order, and what became of those that are not.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::incident::TraceId;
use crate::pod::Pod;

/// Suspects that wait for their walk.
pub(super) const MAX_WAITING: usize = 8;
/// A destination is not walked to more often.
pub(super) const REST: Duration = Duration::from_mins(1);
/// Walks begun within [`REST`]: those that fail at once take no time, and whoever opens connections chooses destinations.
const MAX_BEGUN: usize = 256;
/// Incidents whose walks are remembered.
const MAX_KNOWN: usize = 1024;

/// A walk that an incident asks for.
#[derive(Clone, Debug)]
pub(super) struct Order {
    /// Of the incident.
    pub(super) trace_id: TraceId,
    /// Where its segments vanish on the way to.
    pub(super) to: IpAddr,
    /// The port there.
    pub(super) port: Option<u16>,
    /// Inode of the network namespace that they come from; `None` where the kernel could not be asked.
    pub(super) netns: Option<u32>,
    /// Whose that is.
    pub(super) pod: Option<Pod>,
}

/// What became of an incident's walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Became {
    /// It is still to be made, or is under way.
    Waits,
    /// It was made.
    Walked,
    /// It could not be made.
    Failed,
    /// Too many wait.
    Full,
    /// One to its destination began, or waits.
    TooSoon,
    /// The trace has ended.
    Late,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<Order>,
    /// Where walks went of late, and since when.
    begun: Vec<(IpAddr, Instant)>,
    known: VecDeque<(TraceId, Became)>,
    /// What became of incidents that are known no longer.
    forgotten: [u64; 6],
    is_closed: bool,
}

impl Queue {
    /// Takes it in, unless its incident has had its walk. One that was put off may come again.
    pub(super) fn offer(&mut self, order: Order, now: Instant) {
        let before = self.known.iter().find(|(known, _)| *known == order.trace_id).map(|(_, became)| *became);
        if !matches!(before, None | Some(Became::Full | Became::TooSoon)) {
            return;
        }
        self.begun.retain(|(_, begun)| now.saturating_duration_since(*begun) < REST);
        let is_soon = self.begun.iter().any(|(to, _)| *to == order.to)
            || self.waiting.iter().any(|waiting| waiting.to == order.to);
        let became = if self.is_closed {
            Became::Late
        } else if is_soon {
            Became::TooSoon
        } else if self.waiting.len() >= MAX_WAITING || self.begun.len() >= MAX_BEGUN {
            Became::Full
        } else {
            Became::Waits
        };
        self.became(order.trace_id, became);
        if became == Became::Waits {
            self.waiting.push_back(order);
        }
    }

    /// The next to be walked to, which begins now.
    pub(super) fn next(&mut self, now: Instant) -> Option<Order> {
        let order = self.waiting.pop_front()?;
        self.begun.push((order.to, now));
        Some(order)
    }

    /// Notes it.
    pub(super) fn became(&mut self, incident: TraceId, became: Became) {
        if let Some((_, known)) = self.known.iter_mut().find(|(known, _)| *known == incident) {
            *known = became;
            return;
        }
        if self.known.len() >= MAX_KNOWN
            && let Some(oldest) = self.known.iter().position(|(_, became)| *became != Became::Waits)
            && let Some((_, became)) = self.known.remove(oldest)
        {
            self.forgotten[became as usize] += 1;
        }
        self.known.push_back((incident, became));
    }

    /// The trace has ended: what waits is not walked to.
    pub(super) fn close(&mut self) {
        self.is_closed = true;
        self.waiting.clear();
        for (_, became) in self.known.iter_mut().filter(|(_, became)| *became == Became::Waits) {
            *became = Became::Late;
        }
    }

    /// How many walks there were, and why there were no more, in a line for a person.
    pub(super) fn text(&self) -> String {
        let of = |which: Became| {
            let known = self.known.iter().filter(|(_, became)| *became == which).count();
            self.forgotten[which as usize] + u64::try_from(known).unwrap_or(u64::MAX)
        };
        let mut text = match of(Became::Walked) {
            0 => "no walk was made".to_owned(),
            1 => "1 walk was made".to_owned(),
            walks => format!("{walks} walks were made"),
        };
        let mut parts = Vec::new();
        for (became, why) in [
            (Became::Failed, "could not be made".to_owned()),
            (Became::Full, format!("not made: {MAX_WAITING} were waiting")),
            (
                Became::TooSoon,
                "not made: one to the same destination began less than a minute before".to_owned(),
            ),
            (Became::Late, "not made: the trace ended first".to_owned()),
        ] {
            if of(became) > 0 {
                parts.push(format!("{} {why}", of(became)));
            }
        }
        if parts.is_empty() && of(Became::Walked) == 0 {
            text.push_str(": nothing asked for one");
        }
        for part in parts {
            text.extend(["; ", &part]);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(last: u32) -> Order {
        let to = IpAddr::from((0x0a00_0000 + last).to_be_bytes());
        Order { trace_id: TraceId::random(), to, port: Some(443), netns: Some(7), pod: None }
    }

    #[test]
    fn those_that_come_first_are_walked_to_first_and_few_wait() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let orders: Vec<Order> = (0..11).map(order).collect();
        for order in &orders {
            queue.offer(order.clone(), now);
        }
        for wanted in &orders[..MAX_WAITING] {
            let next = queue.next(now).unwrap();
            assert_eq!(next.to, wanted.to);
            queue.became(next.trace_id, Became::Walked);
        }
        assert!(queue.next(now).is_none());
        assert_eq!(queue.text(), "8 walks were made; 3 not made: 8 were waiting");
        // One that found no room may come again, and is then not said to have found none.
        queue.offer(orders[9].clone(), now);
        assert_eq!(queue.next(now).unwrap().to, orders[9].to);
        queue.became(orders[9].trace_id, Became::Failed);
        assert_eq!(queue.text(), "8 walks were made; 1 could not be made; 2 not made: 8 were waiting");
    }

    #[test]
    fn an_incident_has_one_walk_and_a_destination_one_a_minute() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let (first, second) = (order(1), order(1));
        for order in [&first, &first, &second] {
            queue.offer(order.clone(), now);
        }
        assert_eq!(queue.next(now).map(|next| next.trace_id), Some(first.trace_id));
        assert!(queue.next(now).is_none(), "the same again, and another to the same destination");
        queue.became(first.trace_id, Became::Walked);
        let soon = now + REST.checked_sub(Duration::from_millis(1)).unwrap();
        queue.offer(second.clone(), soon);
        assert!(queue.next(soon).is_none());
        assert_eq!(
            queue.text(),
            "1 walk was made; 1 not made: one to the same destination began less than a minute before"
        );
        for order in [&first, &second] {
            queue.offer(order.clone(), now + REST);
        }
        assert_eq!(queue.next(now + REST).map(|next| next.trace_id), Some(second.trace_id));
        assert!(queue.next(now + REST).is_none(), "the first has had its walk");
    }

    #[test]
    fn what_waits_when_the_trace_ends_is_not_walked_to() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        assert_eq!(queue.text(), "no walk was made: nothing asked for one");
        queue.offer(order(1), now);
        queue.close();
        queue.offer(order(2), now);
        assert!(queue.next(now).is_none());
        assert_eq!(queue.text(), "no walk was made; 2 not made: the trace ended first");
    }

    /// Whoever opens connections chooses where to, and how many.
    #[test]
    fn a_flood_of_suspects_stays_bounded_and_is_counted() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let mut walks = 0;
        for last in 0..10_000 {
            queue.offer(order(last), now);
            if let Some(next) = queue.next(now) {
                walks += 1;
                queue.became(next.trace_id, Became::Failed);
            }
        }
        assert_eq!(walks, MAX_BEGUN);
        assert_eq!((queue.known.len(), queue.begun.len(), queue.waiting.len()), (MAX_KNOWN, MAX_BEGUN, 0));
        let text = queue.text();
        assert!(text.contains("256 could not be made; 9744 not made: "), "{text}");
        queue.offer(order(1), now + REST);
        assert!(queue.next(now + REST).is_some());
    }
}
