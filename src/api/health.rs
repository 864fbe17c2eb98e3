//! `grpc.health.v1.Health`, for alarms. Not for probes: `deploy/probes.md` says why.
//!
//! *Takes* a service's name: "" (ready) or `portcullis.v1.Broker` (could release something now). *Gives* SERVING or
//! NOT_SERVING, never why. *Denies* more watchers than there is room for. *Source*: gRPC Health Checking Protocol.

use crate::limits;
use crate::telemetry::Telemetry;
use futures_util::stream::{self, Stream, StreamExt};
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

/// The service, bounded.
pub type Server = HealthServer<HealthService>;

/// What answers.
pub struct HealthService {
    telemetry: Arc<Telemetry>,
    watches: Arc<Semaphore>,
}

/// A service over this broker's telemetry.
pub fn server(telemetry: Arc<Telemetry>) -> Server {
    let watches = Arc::new(Semaphore::new(limits::OPERATIONS_WATCHES));
    HealthServer::new(HealthService { telemetry, watches })
        .max_decoding_message_size(limits::OPERATIONS_MESSAGE_BYTES)
}

#[tonic::async_trait]
impl Health for HealthService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        match standing(&self.telemetry, &request.get_ref().service) {
            ServingStatus::ServiceUnknown => Err(Status::not_found("no such service")),
            status => Ok(Response::new(response(status))),
        }
    }

    /// Says how the service stands, and again each time that changes.
    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let permit = self.watches.clone().try_acquire_owned();
        let permit = permit.map_err(|_| Status::resource_exhausted("as many watch as may"))?;
        let (_, beats) = self.telemetry.moments();
        let watch = Watch {
            telemetry: self.telemetry.clone(),
            service: request.into_inner().service,
            beats,
            last: None,
            _permit: permit,
        };
        Ok(Response::new(stream::unfold(watch, Watch::next).boxed()))
    }
}

struct Watch {
    telemetry: Arc<Telemetry>,
    service: String,
    beats: watch::Receiver<u64>,
    last: Option<ServingStatus>,
    _permit: OwnedSemaphorePermit,
}

impl Watch {
    async fn next(mut self) -> Option<(Result<HealthCheckResponse, Status>, Watch)> {
        loop {
            let (mut phases, _) = self.telemetry.moments();
            let status = standing(&self.telemetry, &self.service);
            if self.last != Some(status) {
                self.last = Some(status);
                return Some((Ok(response(status)), self));
            }
            tokio::select! {
                beat = self.beats.changed() => beat.ok()?,
                phase = phases.changed() => phase.ok()?,
            }
        }
    }
}

fn standing(telemetry: &Telemetry, service: &str) -> ServingStatus {
    let serving = match service {
        "" => telemetry.is_ready(),
        BROKER => telemetry.obstacle().is_none(),
        _ => return ServingStatus::ServiceUnknown,
    };
    if serving { ServingStatus::Serving } else { ServingStatus::NotServing }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

/// The service that workloads ask.
const BROKER: &str = "portcullis.v1.Broker";
