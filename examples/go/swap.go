// One swap, submitted once and followed to its end, whatever becomes of the connection.
//
//	swap HOST:PORT TOKEN_IN TOKEN_OUT AMOUNT
//
// Prints a line for each event. Exits 0 when the order is CONFIRMED, 1 when it ended otherwise, 2
// when it was refused, 3 when nobody answered. Optional, from the environment: CLIENT_ORDER_ID, to
// follow the same order again; API_KEY; CA_FILE, the PEM file of an authority, for TLS.
package main

import (
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	enginev1 "example/build/engine/v1"
)

//go:generate buf generate ../../protos --path ../../protos/engine/v1/orders.proto
//go:generate cp ../../oee/service_config.json build/

// How gRPC itself tries again, and the deadline of every call.
//
//go:embed build/service_config.json
var serviceConfig string

// What passes by itself, if the same is asked again.
var transient = []codes.Code{codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted}

var errNotConfirmed = errors.New("the order is not CONFIRMED")

const (
	patienceFor  = 60 * time.Second
	firstBackoff = 100 * time.Millisecond
	lastBackoff  = 2 * time.Second
)

// patience bridges outages; it begins anew whenever the engine was heard.
type patience struct {
	ends    time.Time
	backoff time.Duration
}

func newPatience() patience {
	return patience{time.Now().Add(patienceFor), firstBackoff}
}

// wait returns nil when it is time to ask again, and the error when that would not help.
func (p *patience) wait(err error) error {
	failure := status.Convert(err)
	if !slices.Contains(transient, failure.Code()) || time.Now().After(p.ends) {
		return err
	}
	delay := p.backoff
	p.backoff = min(2*p.backoff, lastBackoff)
	for _, detail := range failure.Details() {
		// The engine may know better than we do when to come back.
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			delay = info.GetRetryDelay().AsDuration()
		}
	}
	fmt.Fprintf(os.Stderr, "%v: %s; again in %v\n", failure.Code(), failure.Message(), delay)
	time.Sleep(delay)
	return nil
}

// submit is safe to repeat: the same client_order_id is the same order.
func submit(
	ctx context.Context, client enginev1.OrderServiceClient, request *enginev1.SubmitOrderRequest,
) (*enginev1.Order, error) {
	patience := newPatience()
	for {
		response, err := client.SubmitOrder(ctx, request)
		if err == nil {
			return response.GetOrder(), nil
		}
		if err := patience.wait(err); err != nil {
			return nil, err
		}
	}
}

// watch shows every event, each once and in sequence, until the order has ended.
func watch(
	ctx context.Context, client enginev1.OrderServiceClient, clientOrderID string,
	show func(*enginev1.OrderEvent),
) error {
	patience := newPatience()
	var seen uint64
	for {
		err := follow(ctx, client, clientOrderID, seen, func(response *enginev1.WatchOrderResponse) {
			patience = newPatience()
			if event := response.GetEvent(); event != nil {
				seen = event.GetSequence()
				show(event)
			}
		})
		if err == nil {
			return nil
		}
		if err := patience.wait(err); err != nil {
			return err
		}
	}
}

// follow reads one stream to its end; nil when the engine ended it because the order has ended.
func follow(
	ctx context.Context, client enginev1.OrderServiceClient, clientOrderID string, after uint64,
	heard func(*enginev1.WatchOrderResponse),
) error {
	stream, err := client.WatchOrder(ctx, &enginev1.WatchOrderRequest{
		Id:            &enginev1.WatchOrderRequest_ClientOrderId{ClientOrderId: clientOrderID},
		AfterSequence: &after,
	})
	if err != nil {
		return err
	}
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		heard(response)
	}
}

func connect(address, caFile string) (*grpc.ClientConn, error) {
	transport := insecure.NewCredentials()
	if caFile != "" {
		var err error
		if transport, err = credentials.NewClientTLSFromFile(caFile, ""); err != nil {
			return nil, err
		}
	}
	reconnect := backoff.DefaultConfig
	reconnect.MaxDelay = lastBackoff
	return grpc.NewClient(
		address,
		grpc.WithTransportCredentials(transport),
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: lastBackoff}),
		grpc.WithKeepaliveParams(
			keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second},
		),
	)
}

func swap(address, tokenIn, tokenOut, amountIn string) error {
	conn, err := connect(address, os.Getenv("CA_FILE"))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx := context.Background()
	if key := os.Getenv("API_KEY"); key != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+key)
	}
	// One for each intent. A bot writes it down before it is first sent, and so survives a crash.
	clientOrderID := os.Getenv("CLIENT_ORDER_ID")
	if clientOrderID == "" {
		clientOrderID = "example-" + rand.Text()
	}
	client := enginev1.NewOrderServiceClient(conn)
	order, err := submit(ctx, client, &enginev1.SubmitOrderRequest{
		ClientOrderId: clientOrderID,
		TokenIn:       tokenIn,
		TokenOut:      tokenOut,
		AmountIn:      amountIn,
	})
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, clientOrderID, "is order", order.GetOrderId())
	var ended enginev1.OrderStatus
	err = watch(ctx, client, clientOrderID, func(event *enginev1.OrderEvent) {
		fmt.Println(event.GetSequence(), event.GetType(), event.GetStatus())
		ended = event.GetStatus()
	})
	if err == nil && ended != enginev1.OrderStatus_ORDER_STATUS_CONFIRMED {
		return errNotConfirmed
	}
	return err
}

func main() {
	if len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: swap HOST:PORT TOKEN_IN TOKEN_OUT AMOUNT")
		os.Exit(2)
	}
	err := swap(os.Args[1], os.Args[2], os.Args[3], os.Args[4])
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, err)
	switch {
	case errors.Is(err, errNotConfirmed):
		os.Exit(1)
	case slices.Contains(transient, status.Code(err)):
		os.Exit(3)
	default:
		os.Exit(2)
	}
}
