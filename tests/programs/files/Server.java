import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;

/** An HTTP server with platform and virtual threads, a scheduler and code that the JIT compiles. */
public class Server {
    static final AtomicInteger hits = new AtomicInteger();
    static final AtomicInteger ticks = new AtomicInteger();
    static final ConcurrentHashMap<Integer, byte[]> heap = new ConcurrentHashMap<>();

    static int primes(int n) {
        boolean[] composite = new boolean[n + 1];
        int count = 0;
        for (int i = 2; i <= n; i++) {
            if (composite[i]) continue;
            count++;
            for (long j = (long) i * i; j <= n; j += i) composite[(int) j] = true;
        }
        return count;
    }

    public static void main(String[] arguments) throws Exception {
        var scheduler = Executors.newScheduledThreadPool(4);
        scheduler.scheduleAtFixedRate(ticks::incrementAndGet, 0, 20, TimeUnit.MILLISECONDS);
        for (int i = 0; i < 30; i++) {
            var thread = new Thread(() -> {
                try { Thread.sleep(Long.MAX_VALUE); } catch (InterruptedException ended) { }
            });
            thread.setDaemon(true);
            thread.start();
        }
        for (int i = 0; i < 200; i++) heap.put(i, new byte[100_000]);
        var server = HttpServer.create(new InetSocketAddress(8080), 0);
        server.setExecutor(Executors.newVirtualThreadPerTaskExecutor());
        server.createContext("/", exchange -> {
            int before = ticks.get();
            int found = primes(100_000);
            try { Thread.sleep(60); } catch (InterruptedException ended) { }
            for (int i = 0; i < 50; i++) heap.put(i, new byte[100_000]);
            var text = "{\"hits\": " + hits.incrementAndGet() + ", \"primes\": " + found
                + ", \"heap\": " + heap.size() + ", \"ticking\": " + (ticks.get() > before) + "}";
            System.out.println("hit");
            exchange.sendResponseHeaders(200, text.length());
            exchange.getResponseBody().write(text.getBytes());
            exchange.close();
        });
        server.createContext("/ping", exchange -> {
            exchange.sendResponseHeaders(200, 4);
            exchange.getResponseBody().write("pong".getBytes());
            exchange.close();
        });
        Runtime.getRuntime().addShutdownHook(new Thread(() -> System.out.println("ending")));
        server.start();
        System.out.println("ready");
    }
}
