//! A dump over netlink, believed only if it is of one piece.
//!
//! The kernel hands a dump over in parts. Where a table changes between two of them, entries may be
//! missing that were there all the time, and the kernel says so with a flag (`NLM_F_DUMP_INTR`). An
//! uplink that seems to be gone would lose its programs, so such a dump is asked for again.

use std::pin::pin;

use futures::{Stream, StreamExt as _};
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::Handle;
use rtnetlink::packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};

use super::watch::InterfaceError;

/// How often a dump is asked for that is interrupted each time.
const ATTEMPTS: u32 = 5;

/// What `request` is answered with, as `take` collects it; `what` names it in errors.
pub(super) async fn dump<T: Default>(
    handle: &Handle,
    what: &'static str,
    request: impl Fn() -> RouteNetlinkMessage,
    take: impl Fn(&mut T, RouteNetlinkMessage),
) -> Result<T, InterfaceError> {
    let failed = |source| InterfaceError::Dump { what, source };
    whole(what, async || {
        let mut message = NetlinkMessage::from(request());
        message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let replies = handle.clone().request(message).map_err(failed)?;
        collect(replies, &take).await.map_err(failed)
    })
    .await
}

/// The first result that is one, of so many.
async fn whole<T>(
    what: &'static str,
    dump: impl AsyncFn() -> Result<Option<T>, InterfaceError>,
) -> Result<T, InterfaceError> {
    for _ in 0..ATTEMPTS {
        if let Some(whole) = dump().await? {
            return Ok(whole);
        }
    }
    Err(InterfaceError::Interrupted { what })
}

/// What `replies` say, read to their end; `None` where they are not of one piece.
async fn collect<T: Default>(
    replies: impl Stream<Item = NetlinkMessage<RouteNetlinkMessage>>,
    take: &impl Fn(&mut T, RouteNetlinkMessage),
) -> Result<Option<T>, rtnetlink::Error> {
    let mut replies = pin!(replies);
    let (mut collected, mut is_whole) = (T::default(), true);
    while let Some(reply) = replies.next().await {
        is_whole &= reply.header.flags & NLM_F_DUMP_INTR == 0;
        match reply.payload {
            NetlinkPayload::InnerMessage(message) => take(&mut collected, message),
            NetlinkPayload::Error(error) => {
                return Err(rtnetlink::Error::NetlinkError(error));
            }
            _ => {}
        }
    }
    Ok(is_whole.then_some(collected))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures::executor::block_on;
    use futures::stream;
    use netlink_packet_route::link::LinkMessage;

    use super::*;

    fn link(index: u32, flags: u16) -> NetlinkMessage<RouteNetlinkMessage> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::NewLink(link));
        message.header.flags = flags;
        message
    }

    fn indices(replies: Vec<NetlinkMessage<RouteNetlinkMessage>>) -> Option<Vec<u32>> {
        let take = |indices: &mut Vec<u32>, message| {
            if let RouteNetlinkMessage::NewLink(link) = message {
                indices.push(link.header.index);
            }
        };
        block_on(collect(stream::iter(replies), &take)).unwrap()
    }

    #[test]
    fn a_dump_that_was_interrupted_is_not_believed() {
        assert_eq!(indices(vec![link(1, 0), link(2, 0)]), Some(vec![1, 2]));
        let interrupted = vec![link(1, 0), link(2, NLM_F_DUMP_INTR), link(3, 0)];
        assert_eq!(indices(interrupted), None);
    }

    #[test]
    fn an_interrupted_dump_is_asked_for_again_and_not_for_ever() {
        let asked = Cell::new(0);
        let interrupted_until = |last: u32| {
            asked.set(0);
            block_on(whole("devices", async || {
                asked.set(asked.get() + 1);
                Ok((asked.get() > last).then_some("all"))
            }))
        };
        assert_eq!(interrupted_until(3).unwrap(), "all");
        assert_eq!(asked.get(), 4);
        let error = interrupted_until(u32::MAX).unwrap_err();
        assert!(matches!(error, InterfaceError::Interrupted { .. }));
        assert_eq!(asked.get(), ATTEMPTS);
    }
}
