//! Sessions as a person types them.

use stratos_tests::{Node, Session, need_root};

use super::{GREETER, GREETER_TOML, write_greeter};

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomers_session() {
    if !need_root("a_newcomers_session") {
        return;
    }
    let node = Node::start().await;
    let session = Session::new(&node);
    session.check(
        r#"
$ stratos ls
! no functions yet; make one with `stratos new NAME`, deploy it with `stratos deploy NAME`
$ stratos new hello --runtime python3.13
made hello/ with stratos.toml, app.py
next  stratos deploy hello
$ stratos deploy hello
deployed hello version 1 ([n] KiB, [n] s)
url  curl --unix-socket [node]/api.sock http://stratos/f/hello/
next  stratos invoke hello -d '{}'
! packing hello ...
! sending 2 files, [n] B ([n] B compressed) ...
! unpacking ...
! compiling bytecode ...
! making the image ...
! storing the version ...
$ stratos invoke hello -d '{"name":"you"}' | cut -c 1-27
{"message":"Hello, you!","s
! cold  [n] ms  ([phases])  version 1  [id]
$ stratos ls
NAME  RUNTIME  VERSION  DEPLOYED  INSTANCES  INVOCATIONS  ERRORS
hello  python3.13  1  [time]  1  1  0
$ stratos versions hello
VERSION  DEPLOYED  RUNTIME  SIZE  DIGEST
      1  current  [time]  python3.13 [version]  [n] KiB  [digest]
$ stratos show hello
name  hello
version  1, deployed [time]
runtime  python3.13 (handler [version])
image  [digest] ([n] KiB)
layer  python3.13 [digest]
url  curl --unix-socket [node]/api.sock http://stratos/f/hello/
invocations  1 (0 errors, 1 cold starts), 0 waiting
checkpoint  none: this node makes none (--checkpoints off)

SPECIFICATION
  concurrency = 1
  egress = []
  handler = "app.handler"
  max_instances = 10
  memory = "128MB"
  name = "hello"
  public = false
  runtime = "python3.13"
  timeout = "30s"

  [env]

INSTANCE  VERSION  STATE  IN FLIGHT  SERVED  AGE s  MEMORY
[instance]  1  idle  0  1  [age]  [memory]

INVOCATION  STARTED  START  QUEUE  SANDBOX  RUNTIME  INIT  HANDLER  TOTAL ms  OUTCOME
[id]  [time]  cold  [phases]  ok
$ sed -i 's/Hello/Good day/' hello/app.py
$ cd hello && stratos deploy
deployed hello version 2 ([n] KiB, [n] s)
url  curl --unix-socket [node]/api.sock http://stratos/f/hello/
next  stratos invoke hello -d '{}'
! packing . ...
! sending 2 files, [n] B ([n] B compressed) ...
! unpacking ...
! compiling bytecode ...
! making the image ...
! storing the version ...
$ stratos invoke hello -d '{"name":"you"}' | cut -c 1-30
{"message":"Good day, you!","s
! cold  [n] ms  ([phases])  version 2  [id]
$ stratos rollback hello
hello is back at version 1, deployed [time]
$ stratos invoke hello -d '{"name":"you"}' | cut -c 1-27
{"message":"Hello, you!","s
! cold  [n] ms  ([phases])  version 1  [id]
$ stratos invoke hello --version 2 -d '{"name":"you"}' | cut -c 1-30
{"message":"Good day, you!","s
! cold  [n] ms  ([phases])  version 2  [id]
$ stratos rollback hello
! error: version 1 of `hello` is the oldest there is
! hint: its versions: 1, 2
[exit 6]
$ stratos rollback hello --to 7
! error: function `hello` has no version 7
! hint: its versions: 1, 2
[exit 6]
$ stratos rollback hello --to 2
hello is back at version 2, deployed [time]
$ stratos versions hello
VERSION  DEPLOYED  RUNTIME  SIZE  DIGEST
      2  current  [time]  python3.13 [version]  [n] KiB  [digest]
      1  [time]  python3.13 [version]  [n] KiB  [digest]
$ stratos rm hello
! error: will not remove hello without being told to
! hint: add --yes
[exit 2]
$ stratos rm hello --yes
removed hello
$ stratos ls
! no functions yet; make one with `stratos new NAME`, deploy it with `stratos deploy NAME`
$ stratos show hello
! error: there is no function `hello`
! hint: `stratos ls` lists the functions of this node; `stratos deploy` adds one
[exit 6]
"#,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn payloads_come_from_anywhere() {
    if !need_root("payloads_come_from_anywhere") {
        return;
    }
    let node = Node::start().await;
    let session = Session::new(&node);
    write_greeter(&session);
    session.write("event.json", "{\"name\": \"file\"}");
    session.check(
        r#"
$ stratos deploy greet 2> /dev/null
deployed greet version 1 ([n] KiB, [n] s)
url  curl --unix-socket [node]/api.sock http://stratos/f/greet/
next  stratos invoke greet -d '{}'
$ stratos invoke greet -d '{"name":"data"}'
{"hello":"data"}
! cold  [n] ms  ([phases])  version 1  [id]
$ stratos invoke greet -f event.json
{"hello":"file"}
! warm  [n] ms  ([phases])  version 1  [id]
$ stratos invoke greet -f - < event.json
{"hello":"file"}
! warm  [n] ms  ([phases])  version 1  [id]
$ echo '{"name":"stdin"}' | stratos invoke greet
{"hello":"stdin"}
! warm  [n] ms  ([phases])  version 1  [id]
$ stratos invoke greet
{"hello":"nobody"}
! warm  [n] ms  ([phases])  version 1  [id]
$ stratos invoke greet -d '{"name":"log"}' --log 2>&1 > /dev/null | sort -k 3
warm  [n] ms  ([phases])  version 1  [id]
[time] [instance] platform REPORT ok warm [phases]
[time] [instance] stdout  greeting log
$ stratos invoke greet -d '{'
! error: the payload is not JSON: EOF while parsing an object at line 1 column 1
! hint: handlers take JSON; a text is "in quotes"
[exit 6]
$ stratos invoke greet -f nowhere.json
! error: cannot read the payload nowhere.json
!  No such file or directory (os error 2)
[exit 1]
$ stratos invoke greet -d '{}' -f event.json 2>&1 | head -1
error: the argument '--data <DATA>' cannot be used with '--file <FILE>'
$ stratos invoke nobody -d '{}'
! error: there is no function `nobody`
! hint: `stratos ls` lists the functions of this node; `stratos deploy` adds one
[exit 6]
$ stratos invoke greet --version 3 -d '{}'
! error: function `greet` has no version 3
! hint: `stratos versions greet` lists its versions
[exit 6]
$ stratos invoke greet -d '{}' --async
[id]
"#,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_have_exit_codes_causes_and_hints() {
    if !need_root("failures_have_exit_codes_causes_and_hints") {
        return;
    }
    let node = Node::start().await;
    let session = Session::new(&node);
    let code = "import os, time\n\ndef handler(event, context):\n    if event == 'hang':\n        time.sleep(60)\n    \
                if event == 'exit':\n        os._exit(3)\n    return {}[event]\n";
    session.write("bad/app.py", code);
    session.write("bad/stratos.toml", "name = \"bad\"\ntimeout = \"1s\"\nhandler = \"app.handler\"\n");
    session.write("web/stratos.toml", "name = \"web\"\nruntime = \"node24\"\nstart = \"node server.mjs\"\n");
    let server = "import http from 'node:http';\nhttp.createServer((req, res) => {\n    res.statusCode = 503;\n    \
                  res.end('closed on Mondays\\n');\n}).listen(process.env.PORT);\n";
    session.write("web/server.mjs", server);
    session.check(
        r#"
$ stratos deploy bad > /dev/null 2>&1
$ stratos deploy web > /dev/null 2>&1
$ stratos invoke bad -d '"name"'
! cold  [n] ms  ([phases])  version 1  [id]
! error: the function returned an error: KeyError: 'name'
!  File "/var/task/app.py", line 8, in handler
!  return {}[event]
!  ~~^^^^^^^
[exit 4]
$ stratos invoke bad -d '"hang"'
! warm  [n] ms  ([phases])  version 1  [id]
! error: the function did not answer within its timeout of 1s
! hint: raise `timeout` in stratos.toml, or do less in one request; the instance was ended
[exit 4]
$ stratos invoke bad -d '"exit"'
! cold  [n] ms  ([phases])  version 1  [id]
! error: the function's process exited with status 3 while it had this request
! hint: `stratos logs` shows what it printed; the request was not tried again
[exit 4]
$ stratos invoke web -d 'x'
closed on Mondays
! cold  [n] ms  ([phases])  version 1  [id]
! error: the function answered 503 Service Unavailable
[exit 4]
$ stratos invoke bad -d '"name"' --json 2> /dev/null
{"error":{"blame":"function","code":"function_error","detail":{"errorMessage":"'name'","errorType":"KeyError","requestId":"[id]","stackTrace":["  File \"/var/task/app.py\", line 8, in handler\n  return {}[event]\n  ~~^^^^^^^\n"]},"invocation":"[id]","message":"the function returned an error: KeyError: 'name'"}}
[exit 4]
"#,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_folders_are_refused_with_file_key_and_hint() {
    if !need_root("wrong_folders_are_refused_with_file_key_and_hint") {
        return;
    }
    let node = Node::start().await;
    let session = Session::new(&node);
    write_greeter(&session);
    session.write("typo/stratos.toml", &format!("{GREETER_TOML}memroy = \"1GB\"\n"));
    session.write("typo/index.mjs", GREETER);
    session.write("size/stratos.toml", &format!("{GREETER_TOML}memory = \"1TB\"\n"));
    session.write("toml/stratos.toml", "name = \"x\"\nruntime = \n");
    session.write("lost/stratos.toml", &GREETER_TOML.replace("index", "main"));
    session.write("lost/index.mjs", GREETER);
    session.write("what/notes.txt", "nothing to run here");
    session.check(
        r#"
$ stratos deploy typo
! packing typo ...
! sending 2 files, [n] B ([n] B compressed) ...
! unpacking ...
! error: stratos.toml: memroy: unknown key
! hint: did you mean `memory`?
[exit 6]
$ stratos deploy size 2>&1 | tail -2
error: stratos.toml: memory: `1TB` is not an amount of memory from 32MB to 64GB, such as "128MB"
hint: write an amount such as "128MB"
$ stratos deploy toml 2>&1 | tail -2
error: stratos.toml: line 2: string values must be quoted, expected literal string
hint: the file is TOML: `key = "value"`, one a line
$ stratos deploy lost 2>&1 | tail -2
error: stratos.toml: handler: `main.handler` names the module `main`, which is not in the package
hint: add main.mjs, main.js or main.cjs, or correct the handler
$ stratos deploy what 2>&1 | tail -2
error: stratos.toml: runtime: missing, and the folder's files do not tell it
hint: write runtime = "node24", "python3.13" or "native"
$ stratos deploy nowhere
! error: cannot read the folder nowhere
!  No such file or directory (os error 2)
[exit 1]
$ stratos deploy size --json 2> /dev/null
{"event":"step","step":"unpacking"}
{"event":"failed","error":{"code":"invalid_function","blame":"client","message":"`1TB` is not an amount of memory from 32MB to 64GB, such as \"128MB\"","hint":"write an amount such as \"128MB\"","file":"stratos.toml","key":"memory"}}
[exit 6]
$ stratos ls
! no functions yet; make one with `stratos new NAME`, deploy it with `stratos deploy NAME`
"#,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_and_tokens_are_asked_for() {
    if !need_root("addresses_and_tokens_are_asked_for") {
        return;
    }
    let node = stratos_tests::tcp::start(&[]).await;
    let session = Session::new(&node);
    session.write("wrong", "not-the-token");
    let address = stratos_tests::tcp::address(&node).to_string();
    let token = node.dir().join("state/token").display().to_string();
    let transcript = r#"
$ stratos ls --node http://[address]
! error: this needs the node's token
! hint: give the node's token with --token, --token-file or STRATOS_TOKEN
[exit 6]
$ stratos ls --node http://[address] --token-file wrong
! error: this needs the node's token
! hint: give the node's token with --token, --token-file or STRATOS_TOKEN
[exit 6]
$ stratos ls --node http://[address] --token-file [token]
! no functions yet; make one with `stratos new NAME`, deploy it with `stratos deploy NAME`
$ stratos node health --node http://[address]
status  ok
version  [version]
! note: a node tells the rest to callers with its token (--token, --token-file or STRATOS_TOKEN)
$ stratos ls --node /nowhere/api.sock
! error: cannot reach the node at unix:///nowhere/api.sock
!  No such file or directory (os error 2)
! hint: start a node with `make dev`, or name one with --node URL or STRATOS_NODE
[exit 3]
$ stratos ls --node /nowhere/api.sock --json 2> /dev/null
{"error":{"causes":["No such file or directory (os error 2)"],"code":"unreachable","hint":"start a node with `make dev`, or name one with --node URL or STRATOS_NODE","message":"cannot reach the node at unix:///nowhere/api.sock"}}
[exit 3]
$ stratos completions bash | head -1
_stratos() {
$ stratos completions fish | head -1
# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
"#;
    session.check_with(&[("[address]", &address), ("[token]", &token)], transcript);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_not_ours_is_shown_and_not_shut_down() {
    if !need_root("a_machine_that_is_not_ours_is_shown_and_not_shut_down") {
        return;
    }
    let node = Node::builder().arg("--init-socket").arg("/nowhere/init.sock").start().await;
    let session = Session::new(&node);
    session.check(
        r#"
$ stratos node reboot
! error: will not reboot the node without being told to
! hint: add --yes
[exit 2]
$ stratos node poweroff --yes
! error: this machine is not run by StratOS's own PID 1
! hint: use what runs it, such as `systemctl reboot`
[exit 5]
$ stratos node boot
! error: this node has no record of a boot
! hint: boots are recorded where StratOS's own PID 1 runs the machine
[exit 1]
$ stratos node boot --json
[]
$ stratos node status | grep ^init
init  another one than StratOS's own: no boots, no services, no shutdown
$ stratos node logs --source 'a b'
! error: `a b` is not the name of a source
! hint: `stratos node status` lists the services; there are `init` and `kernel` besides
[exit 2]
$ stratos node tree | grep -c ' service stratosd$'
1
"#,
    );
    assert_eq!(session.json(&["node", "status"])["managed"], false);
    let tree = session.json(&["node", "tree"]);
    assert!(tree.as_array().is_some_and(|processes| processes.len() > 1), "{tree}");
}
