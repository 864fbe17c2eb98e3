//! gRPC: the only place that knows tonic and prost, beside the client and the attester.
