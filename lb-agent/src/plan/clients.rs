//! Whose traffic policy applies to whom.
//!
//! `SERVICES` has a word for each [`Audience`], which are the rules' three kinds of clients. Where
//! both policies are `Local` no two of them have the same backends.

use lb_common::table::service::Audience;

/// Who dials what.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Clients {
    /// Whoever dials a cluster address, from wherever: `internalTrafficPolicy`.
    OfClusterAddress,
    /// Pods and this node, dialling a node port, an external or a load balancer address: they may go
    /// to any endpoint whatever the policy, as if they had dialled the cluster address of a Service
    /// without policies.
    Inside,
    /// Everybody else, dialling one of these: `externalTrafficPolicy`.
    Outside,
}

impl Clients {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::OfClusterAddress, Self::Inside, Self::Outside];
}

impl From<Audience> for Clients {
    fn from(audience: Audience) -> Self {
        match audience {
            Audience::Internal => Self::OfClusterAddress,
            Audience::External => Self::Outside,
            Audience::Inside => Self::Inside,
        }
    }
}
