//! What varies from cell to cell.

use std::fmt;

/// Writes an enum whose values have a name, and the list of all of them.
macro_rules! dimension {
    ($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$value_doc])* $value,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: [Self; [$(Self::$value),*].len()] = [$(Self::$value),*];
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$value => $text,)*
                })
            }
        }
    };
}

dimension! {
    /// Who dials.
    Source {
        /// A pod of node 1.
        PodHere = "a pod here",
        /// A pod of node 3.
        PodElsewhere = "a pod elsewhere",
        /// A process of node 1.
        ThisNode = "this node",
        /// A process of node 3.
        OtherNode = "another node",
        /// A client outside of the cluster.
        External = "an external client",
        /// The local endpoint itself.
        Hairpin = "the endpoint itself",
    }
}

dimension! {
    /// What is dialled.
    Address {
        /// A cluster address; from outside it is routed to node 1.
        ClusterIp = "the cluster address",
        /// The node port at node 1.
        NodePortHere = "the node port here",
        /// The node port at node 2.
        NodePortElsewhere = "the node port elsewhere",
        /// An external address; from outside it is routed to node 1.
        ExternalIp = "an external address",
        /// A load balancer's address; from outside it is routed to node 1.
        LoadBalancer = "a load balancer address",
        /// The node port at the loopback address.
        Localhost = "the node port at localhost",
    }
}

dimension! {
    /// The one endpoint of the Service.
    Backend {
        /// A pod of node 1.
        Local = "a local endpoint",
        /// A pod of node 2.
        Remote = "a remote endpoint",
        /// Node 1 itself.
        HostLocal = "an endpoint on the local host's network",
        /// Node 2 itself.
        HostRemote = "an endpoint on a remote host's network",
        /// A pod of node 1 that is about to end, and serves until then.
        Terminating = "a terminating endpoint",
        /// None.
        Nobody = "no endpoint",
    }
}

dimension! {
    /// The family of the address.
    Family {
        /// IPv4.
        V4 = "IPv4",
        /// IPv6.
        V6 = "IPv6",
    }
}

dimension! {
    /// By which of the kernel's ways packets go.
    Path {
        /// Translated at the tc hooks, routed by the kernel.
        Tc = "tc",
        /// Translated and sent on at once.
        Redirect = "redirect",
        /// Translated before the kernel makes a buffer of it.
        Xdp = "XDP",
    }
}
