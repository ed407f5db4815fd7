//! Each role against each method.

use prost::Message as _;
use regatta_core::token::Role;
use regatta_proto::pb;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::support::{Server, channel};

/// Every method there is, from the description that reflection serves: a new one can't be forgotten here.
fn methods() -> Vec<String> {
    let set = prost_types::FileDescriptorSet::decode(regatta_proto::DESCRIPTORS).unwrap();
    let services = set.file.iter().flat_map(|file| file.service.iter().map(move |service| (file.package(), service)));
    services
        .flat_map(|(package, service)| {
            service.method.iter().map(move |method| format!("/{package}.{}/{}", service.name(), method.name()))
        })
        .collect()
}

/// Who may call it.
fn allowed(path: &str, role: Role) -> bool {
    let looks = ["GetRun", "ListRuns", "WatchRun", "ListCells", "ExportRun", "ListAgents"];
    match path.rsplit('/').next().unwrap() {
        "Session" => role == Role::Agent,
        "DescribeArtifact" | "FetchArtifact" => matches!(role, Role::Agent | Role::Submitter),
        method if looks.contains(&method) => matches!(role, Role::Viewer | Role::Submitter),
        _ => role == Role::Submitter,
    }
}

/// Calls a method with an empty message and takes the first answer. `None` where there is none within a moment: a
/// session waits for hello.
async fn call(server: &Server, token: Option<&regatta_core::token::Token>, path: &str) -> Option<Status> {
    let connection = server.plain(token);
    let mut grpc = Grpc::new(channel(&connection).await.unwrap());
    grpc.ready().await.unwrap();
    let mut request = Request::new(tokio_stream::iter([pb::GetRunRequest::default()]));
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {}", token.expose()).parse().unwrap());
    }
    let codec = ProstCodec::<pb::GetRunRequest, pb::ListAgentsRequest>::default();
    let path: PathAndQuery = path.parse().unwrap();
    let answer = async {
        let mut answers = grpc.streaming(request, path, codec).await?.into_inner();
        answers.message().await.map(|_| ())
    };
    answer.await.err()
}

#[tokio::test]
async fn each_role_may_call_its_own_methods_and_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::with_tokens(dir.path()).await;
    let methods = methods();
    assert!(methods.len() >= 14, "{methods:?}");
    for role in Role::ALL {
        let token = server.token(role, "somebody").await;
        for path in &methods {
            let status = call(&server, Some(&token), path).await;
            let denied = status.as_ref().is_some_and(|status| status.code() == Code::PermissionDenied);
            assert_eq!(!denied, allowed(path, role), "{role} {path}: {status:?}");
            if denied {
                let status = status.unwrap();
                assert!(status.message().contains(&format!("has the role {role}")), "{status:?}");
            } else {
                assert!(status.is_none_or(|status| status.code() != Code::Unauthenticated), "{role} {path}");
            }
        }
    }
    for path in &methods {
        let status = call(&server, None, path).await.unwrap();
        assert_eq!(status.code(), Code::Unauthenticated, "{path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_method_that_does_not_exist_is_nobodys() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::with_tokens(dir.path()).await;
    for role in Role::ALL {
        let token = server.token(role, "somebody").await;
        let status = call(&server, Some(&token), "/regatta.v1.RunService/DropEverything").await.unwrap();
        assert_eq!(status.code(), Code::PermissionDenied);
        let status = call(&server, Some(&token), "/regatta.v2.RunService/GetRun").await.unwrap();
        assert_eq!(status.code(), Code::Unimplemented);
    }
    server.stop().await;
}
