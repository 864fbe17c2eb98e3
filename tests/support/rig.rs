//! A second listener on the same world, with one part of the broker replaced by the test's own: for what no input of a
//! caller brings about. The request still goes through every stage, over real gRPC and mTLS.

use super::*;
use futures_util::future::BoxFuture;
use portcullis::api::front::Front;
use portcullis::api::release::ReleaseService;
use portcullis::broker::Broker;
use portcullis::case::Case;
use portcullis::challenge::admission::Admission;
use portcullis::freshness::Freshness;
use portcullis::policy::cedar::PolicySet;
use portcullis::policy::{Catalog, Pdp, SecretStanding, Unknown};
use portcullis::release::{Engine, Engines};
use portcullis::transport::{
    Acceptor, Cause, ConnectionLimits, HandshakeObserver, PeerKind, ServerIdentity, WorkloadVerifier, tls,
};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// What happens while a secret is looked up: between the attestation and the decision.
pub type Hook = Arc<dyn Fn(Arc<World>, Arc<Pdp>) -> BoxFuture<'static, Option<Unknown>> + Send + Sync>;

/// Looks secrets up as the real one does, after the hook has run.
struct Hooked {
    world: Arc<World>,
    kv: Kv,
    pdp: std::sync::OnceLock<Arc<Pdp>>,
    hook: Hook,
}

#[async_trait::async_trait]
impl Catalog for Hooked {
    async fn standing(&self, path: &SecretPath) -> Result<SecretStanding, Unknown> {
        // What was known before the hook is what the decision rests on.
        let standing = self.kv.standing(path).await;
        match (self.hook)(self.world.clone(), self.pdp.get().unwrap().clone()).await {
            Some(unknown) => Err(unknown),
            None => standing,
        }
    }
}

struct Deaf;

impl HandshakeObserver for Deaf {
    fn refused(&self, _denial: Denial, _case: Box<Case>) {}

    fn counted(&self, _cause: Cause) {}
}

/// The listener; it ends with this.
pub struct Rig {
    pub config: client::Config,
    _stop: watch::Sender<bool>,
}

impl Rig {
    pub async fn new(world: &Arc<World>, hook: Hook) -> Rig {
        let engines = world.server().broker().engines.engines.clone();
        Rig::serve(world, hook, engines).await
    }

    /// The same, with an engine of the test's own for the paths of `kv`.
    pub async fn with_engine(world: &Arc<World>, engine: Arc<dyn Engine>) -> Rig {
        let hook: Hook = Arc::new(|_, _| Box::pin(async { None }));
        Rig::serve(world, hook, BTreeMap::from([("kv".to_owned(), engine)])).await
    }

    async fn serve(world: &Arc<World>, hook: Hook, engines: BTreeMap<String, Arc<dyn Engine>>) -> Rig {
        let real = world.server().broker();
        let catalog =
            Arc::new(Hooked { world: world.clone(), kv: world.kv(), pdp: Default::default(), hook });
        let pdp = Arc::new(Pdp::new(catalog.clone()));
        pdp.set(Some(PolicySet::compile(POLICY).unwrap()), 1);
        assert!(catalog.pdp.set(pdp.clone()).is_ok());
        let broker = Broker {
            offer: real.offer.clone(),
            clock: real.clock.clone(),
            trust: real.trust.clone(),
            revocations_known: true.into(),
            admission: Admission::new(world.config.rates()),
            verifiers: real.verifiers.clone(),
            freshness: Freshness::new(real.trust.clone()),
            latches: real.latches.clone(),
            appraiser: real.appraiser.clone(),
            pdp: pdp.clone(),
            recorder: real.recorder.clone(),
            engines: Arc::new(Engines {
                engines,
                trust: real.trust.clone(),
                verifiers: real.verifiers.clone(),
                appraiser: real.appraiser.clone(),
                pdp,
                leases: real.engines.leases.clone(),
                barrier: real.engines.barrier.clone(),
            }),
            measures: Default::default(),
        };
        let (stop, stopped) = watch::channel(false);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = ReleaseService::server(Arc::new(broker));
        let acceptor = Rig::acceptor(world, listener);
        tokio::spawn(acceptor.serve(Front::new(service), stopped));
        let mut config = world.client.clone();
        config.broker = format!("127.0.0.1:{}", address.port());
        Rig { config, _stop: stop }
    }

    fn acceptor(world: &World, listener: TcpListener) -> Acceptor {
        let broker = world.server().broker();
        let provider = Arc::new(tls::crypto_provider());
        let (certificate, key) = (world.config.broker.certificate.clone(), world.config.broker.key.clone());
        let audience = Some(SpiffeId::parse(BROKER).unwrap());
        let (clock, observer) = (broker.clock.clone(), Arc::new(Deaf));
        Acceptor {
            listener,
            identity: Arc::new(ServerIdentity::new(certificate, key, audience, provider.clone())),
            verifier: Arc::new(WorkloadVerifier::new(broker.trust.clone(), clock.clone(), observer.clone())),
            kind: PeerKind::Workload,
            provider,
            clock,
            observer,
            limits: ConnectionLimits::default(),
            shards: None,
        }
    }

    /// One request of the world's workload.
    pub async fn ask(&self, world: &World) -> Outcome {
        attempt(&self.connect(world).await, open_message(&[SECRET]).0, &world.attester()).await
    }

    /// A connection of the world's workload.
    pub async fn connect(&self, world: &World) -> Connection {
        let clock = Arc::new(Clock::new(world.hands.clone(), WallTime(0)));
        Connection::open_by(&self.config, clock).await.expect("it connects")
    }
}
