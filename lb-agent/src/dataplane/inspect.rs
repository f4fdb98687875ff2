//! Single places of the tables, read one by one: what an audit compares without copying a table and
//! without keeping the agent's loop for longer than a few of them take.

use std::collections::BTreeMap;

use lb_common::family::MappedAddress;
use lb_common::table::backend::BackendRecord;
use lb_common::table::frontend::{FrontendKey, FrontendValue};
use lb_common::table::node_address::NodeAddress;
use lb_common::table::service::{SERVICE_WORDS, ServiceWord};
use lb_common::table::source_range::SourceRangeKey;

use super::DataplaneError;

/// The kernel tables, place by place. What lies beyond a table reads as 0.
pub trait Inspect {
    /// The value of a frontend.
    fn frontend(&self, key: &FrontendKey) -> Result<Option<FrontendValue>, DataplaneError>;

    /// At most `most` keys of `FRONTENDS` that come after `key`, in the table's own order; none at
    /// the end. It begins anew where `key` is gone.
    fn frontends_after(
        &self,
        key: Option<&FrontendKey>,
        most: usize,
    ) -> Result<Vec<FrontendKey>, DataplaneError>;

    /// The words of an element of `SERVICES`, by `Audience`.
    fn service(&self, index: u32) -> [ServiceWord; SERVICE_WORDS];

    /// An element of `BACKENDS`.
    fn backend(&self, index: u32) -> BackendRecord;

    /// So many words of `ARENA` from `offset` on.
    fn region(&self, offset: u32, words: u32) -> Vec<u64>;

    /// A word of `SERVICE_FILTER`.
    fn service_filter(&self, word: u32) -> u64;

    /// A word of `BACKEND_FILTER`.
    fn backend_filter(&self, word: u32) -> u64;

    /// A word of `NODE_PORTS`.
    fn node_port_filter(&self, word: u32) -> u64;

    /// At most `most` keys of `SOURCE_RANGES` that come after `key`, in the table's own order; none at
    /// the end. It begins anew where `key` is gone.
    fn source_ranges_after(
        &self,
        key: Option<&SourceRangeKey>,
        most: usize,
    ) -> Result<Vec<SourceRangeKey>, DataplaneError>;

    /// All of `NODE_ADDRESSES`, which has an entry for each address of the node and no more.
    fn node_addresses(&self) -> Result<BTreeMap<MappedAddress, NodeAddress>, DataplaneError>;
}
