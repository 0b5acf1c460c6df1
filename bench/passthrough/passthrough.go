package passthrough

import (
	"context"
	"io"
	"net"
	"net/http"
	"os/exec"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// connect starts a tool server and returns a server with its tools; end stops it.
func connect(ctx context.Context, command *exec.Cmd) (server *mcp.Server, end func() error, err error) {
	self := &mcp.Implementation{Name: "passthrough", Version: "1"}
	up, err := mcp.NewClient(self, nil).Connect(ctx, &mcp.CommandTransport{Command: command}, nil)
	if err != nil {
		return nil, nil, err
	}
	server = mcp.NewServer(self, nil)
	for tool, err := range up.Tools(ctx, nil) {
		if err != nil {
			return nil, nil, err
		}
		server.AddTool(tool, func(ctx context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return up.CallTool(ctx, &mcp.CallToolParams{Name: r.Params.Name, Arguments: r.Params.Arguments})
		})
	}
	return server, up.Close, nil
}

// Run starts a tool server and serves its tools on in and out until the client ends its input.
func Run(ctx context.Context, command *exec.Cmd, in io.ReadCloser, out io.WriteCloser) error {
	server, end, err := connect(ctx, command)
	if err != nil {
		return err
	}
	defer end()
	return server.Run(ctx, &mcp.IOTransport{Reader: in, Writer: out})
}

// Serve starts a tool server and serves its tools over Streamable HTTP to any number of clients until ctx ends.
func Serve(ctx context.Context, command *exec.Cmd, l net.Listener) error {
	server, end, err := connect(ctx, command)
	if err != nil {
		return err
	}
	defer end()
	h := &http.Server{Handler: mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, &mcp.StreamableHTTPOptions{Stateless: true})}
	context.AfterFunc(ctx, func() { _ = h.Close() })
	return h.Serve(l)
}
