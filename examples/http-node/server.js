const http = require('node:http');

const server = http.createServer((request, response) => {
  const name = new URL(request.url, 'http://localhost').searchParams.get('name') ?? 'world';
  console.log(`${request.method} ${request.url}`);
  response.setHeader('Content-Type', 'application/json');
  response.end(JSON.stringify({ message: `Hello, ${name}!`, runtime: `Node.js ${process.versions.node}` }));
});

server.listen(process.env.PORT);
