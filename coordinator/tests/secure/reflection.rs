//! A generic client: it knows nothing of Regatta, lists the services, and reads a run.

use prost::Message as _;
use prost_types::{DescriptorProto, FileDescriptorProto};
use regatta_core::token::Role;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};
use tonic_reflection::pb::v1alpha;

use crate::support::{Agent, Caller, Server, channel, hello};

async fn asked(client: &mut ServerReflectionClient<Caller>, request: MessageRequest) -> MessageResponse {
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(request) };
    let answers = client.server_reflection_info(tokio_stream::iter([request])).await.unwrap();
    let answer: ServerReflectionResponse = answers.into_inner().message().await.unwrap().unwrap();
    answer.message_response.unwrap()
}

#[tokio::test]
async fn a_generic_client_lists_services_and_reads_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::with_tokens(dir.path()).await;
    let agent = server.token(Role::Agent, "gpu-07").await;
    let submitter = server.token(Role::Submitter, "ci").await;
    let _session = Agent::greet(&server.plain(Some(&agent)), hello("gpu-07")).await.unwrap();
    let run = crate::leases::submit(&server.plain(Some(&submitter))).await;
    let connection = server.plain(Some(&submitter));

    let credentials = connection.credentials().unwrap();
    let mut client = ServerReflectionClient::with_interceptor(channel(&connection).await.unwrap(), credentials);
    let MessageResponse::ListServicesResponse(list) =
        asked(&mut client, MessageRequest::ListServices(String::new())).await
    else {
        panic!("no list")
    };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    for name in [
        "regatta.v1.AgentService",
        "regatta.v1.RunService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
    ] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }

    // From the description alone: the method's path, and where its answer keeps the run's name.
    let symbol = MessageRequest::FileContainingSymbol("regatta.v1.RunService".to_owned());
    let MessageResponse::FileDescriptorResponse(files) = asked(&mut client, symbol).await else { panic!("no file") };
    let file = FileDescriptorProto::decode(files.file_descriptor_proto[0].as_slice()).unwrap();
    let service = file.service.iter().find(|service| service.name() == "RunService").unwrap();
    let method = service.method.iter().find(|method| method.name() == "GetRun").unwrap();
    let message = |name: &str| -> &DescriptorProto {
        file.message_type.iter().find(|message| message.name() == name.rsplit('.').next().unwrap()).unwrap()
    };
    let number = |message: &DescriptorProto, field: &str| {
        let field = message.field.iter().find(|known| known.name() == field).unwrap();
        u32::try_from(field.number()).unwrap()
    };
    let request = bytes_field(number(message(method.input_type()), "run_id"), run.as_bytes());
    let path = format!("/{}.RunService/{}", file.package(), method.name());
    let answer = raw_call(&server, &submitter, &path, request).await;
    let inner = field_bytes(&answer, number(message(method.output_type()), "run")).unwrap();
    let name = field_bytes(&inner, number(message("Run"), "name")).unwrap();
    assert_eq!(name, b"small");
    server.stop().await;
}

/// One length-delimited field of a message.
fn bytes_field(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![u8::try_from(number << 3 | 2).unwrap(), u8::try_from(bytes.len()).unwrap()];
    out.extend(bytes);
    out
}

/// The first length-delimited field of that number.
fn field_bytes(mut message: &[u8], number: u32) -> Option<Vec<u8>> {
    use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
    while !message.is_empty() {
        let (found, kind) = decode_key(&mut message).unwrap();
        if found == number && kind == WireType::LengthDelimited {
            let length = usize::try_from(decode_varint(&mut message).unwrap()).unwrap();
            return Some(message[..length].to_vec());
        }
        skip_field(kind, found, &mut message, DecodeContext::default()).unwrap();
    }
    None
}

/// Bytes in, bytes out: a codec that knows no message.
#[derive(Debug, Default)]
struct Raw;

impl tonic::codec::Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl tonic::codec::Encoder for Raw {
    type Item = Vec<u8>;
    type Error = tonic::Status;

    fn encode(&mut self, item: Vec<u8>, out: &mut tonic::codec::EncodeBuf<'_>) -> Result<(), tonic::Status> {
        prost::bytes::BufMut::put_slice(out, &item);
        Ok(())
    }
}

impl tonic::codec::Decoder for Raw {
    type Item = Vec<u8>;
    type Error = tonic::Status;

    fn decode(&mut self, input: &mut tonic::codec::DecodeBuf<'_>) -> Result<Option<Vec<u8>>, tonic::Status> {
        use prost::bytes::Buf;
        let mut bytes = vec![0; input.remaining()];
        input.copy_to_slice(&mut bytes);
        Ok(Some(bytes))
    }
}

async fn raw_call(server: &Server, token: &regatta_core::token::Token, path: &str, request: Vec<u8>) -> Vec<u8> {
    let mut grpc = tonic::client::Grpc::new(channel(&server.plain(Some(token))).await.unwrap());
    grpc.ready().await.unwrap();
    let mut request = tonic::Request::new(request);
    request.metadata_mut().insert("authorization", format!("Bearer {}", token.expose()).parse().unwrap());
    grpc.unary(request, path.parse().unwrap(), Raw).await.unwrap().into_inner()
}

#[tokio::test]
async fn health_is_told_to_everyone_and_reflection_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::with_tokens(dir.path()).await;
    let mut health = HealthClient::new(channel(&server.plain(None)).await.unwrap());
    for service in ["", "regatta.v1.AgentService", "regatta.v1.RunService"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let status = health.check(request).await.unwrap().into_inner().status;
        assert_eq!(status, i32::from(tonic_health::pb::health_check_response::ServingStatus::Serving), "{service}");
    }
    let status = health.check(HealthCheckRequest { service: "unknown".to_owned() }).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);

    let channel = channel(&server.plain(None)).await.unwrap();
    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1alpha::server_reflection_request::MessageRequest::ListServices(String::new())),
    };
    let mut old = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let refused = old.server_reflection_info(tokio_stream::iter([request])).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    server.stop().await;
}
