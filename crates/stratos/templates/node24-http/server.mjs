import { createServer } from "node:http";

const server = createServer((request, response) => {
  response.setHeader("content-type", "text/plain; charset=utf-8");
  response.end(`Hello from ${request.method} ${request.url}\n`);
});

server.listen(process.env.PORT);
